"""Benchmarks: each is a command for a quiet machine and ends in one JSON line."""
