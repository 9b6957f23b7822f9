"""Training of wan-mini: procedural clips, the VAE, the text encoder, the experts, and the judge of generated clips."""
