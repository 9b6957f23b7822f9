"""Requests that no server may choke on."""
