"""Operate a running server from beside it: drain it, ask how full it is, probe it."""
