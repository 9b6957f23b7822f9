"""Requests that the gateway must refuse itself, without effects on database and server."""
