"""Latency of single generations: diffusers, endpoints, profiles, guidance batching. Imports harness and baselines."""
