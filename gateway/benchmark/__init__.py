"""Benchmark of the gateway's overhead: `make bench-gateway`. Not part of the installed package."""
