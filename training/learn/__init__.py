"""What is trained and how: modules, stages, flow matching, optimiser. Uses world."""
