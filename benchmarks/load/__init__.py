"""Many requests: drawn traffic, perf_analyzer, MLPerf's scenarios. Uses harness."""
