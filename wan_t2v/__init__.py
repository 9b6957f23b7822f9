"""Wan2.2 text-to-video, one file a step: from a prompt to the bytes of an MP4."""
