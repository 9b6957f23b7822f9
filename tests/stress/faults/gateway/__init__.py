"""Faults of the gateway, its database, its store and the server behind it."""
