"""Checks of one field or parameter, and the error that says what is wrong with it. Standard library only."""
