"""Admission: which requests run, wait or are rejected immediately. Uses python_backend and resume."""
