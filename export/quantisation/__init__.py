"""FP8: calibration, ranges, weights. Uses checkpoint and graphs."""
