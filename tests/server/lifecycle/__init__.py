"""A server's life: start, signals, faults, drain, resume; each test has its own."""
