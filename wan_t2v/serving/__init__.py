"""The Triton side of each step. `pb_utils` is an argument, so that tests run all of it without a server.

Start with models/text_to_video_stream.py.
"""
