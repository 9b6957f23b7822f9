"""Rehearsal of A14B's deployment on a CPU, from checkpoint to server, with dummies for the weights and the GPU."""
