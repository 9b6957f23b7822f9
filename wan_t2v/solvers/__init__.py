"""Solvers: they compute the next latents from a velocity, along given noise levels. No Triton."""
