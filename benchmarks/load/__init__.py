"""Load: random traffic, perf_analyzer, MLPerf's scenarios. Uses harness."""
