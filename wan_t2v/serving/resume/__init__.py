"""Idempotency keys, and checkpoints of running generations. Uses python_backend."""
