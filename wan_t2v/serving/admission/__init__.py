"""Who runs, who waits, and who is rejected at once. Uses python_backend and resume."""
