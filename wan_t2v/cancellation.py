"""The cancellation error. A module of its own, so that models without torch can raise it."""


class Cancelled(Exception):
    """The caller cancelled the request; the work stopped at the next check."""
