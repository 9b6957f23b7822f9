"""Placement of models on GPUs: memory, layouts, Triton configs. Uses checkpoint and graphs."""
