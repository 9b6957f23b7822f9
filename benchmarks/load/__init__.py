"""Load: random traffic, perf_analyzer, MLPerf's scenarios. Imports harness."""
