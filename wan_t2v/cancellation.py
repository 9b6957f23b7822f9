"""Cancellation. Apart from the loop, so that models without torch can raise it."""


class Cancelled(Exception):
    """The caller no longer wants the result; the work stopped between two steps."""
