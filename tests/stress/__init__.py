"""Programs of `make fuzz`, `make faults` and `make soak`."""
