"""Parity of graphs with diffusers' modules. Imports checkpoint and graphs."""
