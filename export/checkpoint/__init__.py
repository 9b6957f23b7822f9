"""A diffusers checkpoint folder: read, checked, hashed. Uses graphs."""
