"""Shared parts of the benchmarks: copies of repositories, a server, the machine's data, percentiles."""
