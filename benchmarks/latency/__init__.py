"""Latency of single generations: diffusers, endpoints, profiles, guidance batching. Uses harness and baselines."""
