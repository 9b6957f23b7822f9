"""Benchmarks. Each is a command to run on an idle machine, and prints one JSON line last."""
