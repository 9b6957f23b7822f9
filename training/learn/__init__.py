"""Training: modules, stages, flow matching, optimiser, loop. Uses world."""
