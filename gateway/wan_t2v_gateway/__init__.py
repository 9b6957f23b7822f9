"""Wan2.2 text-to-video as jobs over HTTP: `python -m wan_t2v_gateway --help`."""
