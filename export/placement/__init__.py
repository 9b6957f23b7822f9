"""Placement of models on GPUs: memory, layouts, Triton configs. Imports checkpoint and graphs."""
