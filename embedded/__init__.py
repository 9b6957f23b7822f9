"""The embedded server: a real tritonserver from PyPI, found, started, watched and stopped, without Docker or a GPU.

Start with server.py, then supervision/supervisor.py.
"""
