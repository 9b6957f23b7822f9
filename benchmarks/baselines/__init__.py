"""diffusers behind PyTriton and FastAPI, and the comparison with them. Uses harness."""
