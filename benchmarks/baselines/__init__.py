"""Comparison with diffusers served by PyTriton and by FastAPI. Uses harness."""
