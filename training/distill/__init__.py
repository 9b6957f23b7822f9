"""Distillation to four steps: one LoRA per expert, trained on the teacher's trajectories. Uses world and learn."""
