"""Processes: what stops ours, the kernel settings of those that they start, and one tritonserver's start and end."""
