"""Export forms of the checkpoint's modules: same weights and results, rewritten so that they export to ONNX."""
