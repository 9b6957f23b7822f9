"""FP8 and INT8: calibration, ranges, weights. Imports checkpoint and graphs."""
