"""Wan2.2 text-to-video, one file per step: from a prompt to the bytes of an MP4."""
