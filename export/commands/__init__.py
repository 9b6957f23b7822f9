"""Argument parsing only; heavy imports happen when a command runs."""
