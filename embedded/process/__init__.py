"""One tritonserver process: what the kernel is asked for, its start and its end."""
