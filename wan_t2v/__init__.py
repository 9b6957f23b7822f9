"""Wan2.2 text-to-video, one file per step: from a prompt to the bytes of an MP4.

Start with pipeline.py, which calls every step once; serving/models/ is the same way inside Triton.
"""
