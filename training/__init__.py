"""Training of wan-mini: procedural clips, the VAE, text encoder and experts, and the judge of what they learned."""
