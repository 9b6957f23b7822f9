"""What a GPU does with A14B's shapes, without its weights: one file per part. Uses harness."""
