"""The programs behind make fuzz, make faults and make soak."""
