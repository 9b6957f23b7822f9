"""Idempotency keys, and checkpoints of generations under way. Uses python_backend."""
