"""The denoising loop on this server's experts: passes, swaps, checkpoints. Uses python_backend and resume."""
