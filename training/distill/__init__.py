"""Four-step experts: a LoRA per expert, trained on the teacher's own trajectories. Uses world, learn and judge."""
