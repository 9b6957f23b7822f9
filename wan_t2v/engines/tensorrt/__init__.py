"""TensorRT in the process: a plan, its profiles, and whether it fits the TensorRT and the GPU here."""
