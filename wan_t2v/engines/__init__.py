"""Run one graph behind one call, whatever executes it."""
