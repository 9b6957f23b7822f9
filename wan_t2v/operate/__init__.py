"""Operate a running server from another process: drain it, read its load, probe it."""
