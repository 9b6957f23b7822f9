"""The way from A14B's checkpoint to a loaded server on a CPU, with a stand-in where a GPU or 126 GB would be needed."""
