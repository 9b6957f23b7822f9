"""Solvers: a velocity and latents to the next latents, and the noise levels on the way. No Triton."""
