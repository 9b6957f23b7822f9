"""Servers with other configs: engines, versions, one expert at a time, traces."""
