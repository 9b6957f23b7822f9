"""Wan2.2 text-to-video as jobs over HTTP: `python -m wan_t2v_gateway --help`.

Start with app.py, which wires all parts. A job goes through api, database, queue, generation and storage.
"""
