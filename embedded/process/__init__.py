"""One tritonserver process: its kernel settings, its start and its end."""
