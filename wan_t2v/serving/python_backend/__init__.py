"""Triton's Python API: parameters, tensors, calls, responses, metrics, traces. Knows nothing of Wan's steps."""
