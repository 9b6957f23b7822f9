"""Eight bits: calibration, ranges, weights. Uses checkpoint and graphs."""
