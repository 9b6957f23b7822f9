"""Faults of the gateway and of what is around it: its database, its store, the server behind it."""
