"""GPU benchmarks with A14B's shapes and without its weights: one file per part. Uses harness."""
