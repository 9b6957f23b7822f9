"""Diffusers checkpoint folders: read, check and hash them. Uses graphs."""
