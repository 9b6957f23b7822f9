"""Diffusers checkpoint folders: read, check and hash them. Imports graphs."""
