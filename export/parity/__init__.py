"""Parity of graphs with diffusers' modules. Uses checkpoint and graphs."""
