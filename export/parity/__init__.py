"""Graphs held to diffusers' modules. Uses checkpoint and graphs."""
