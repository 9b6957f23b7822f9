"""Fuzzing: bad requests that must not harm a server."""
