"""FP8 and INT8: calibration, ranges, weights. Uses checkpoint and graphs."""
