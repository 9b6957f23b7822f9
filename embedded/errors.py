"""Failures of the embedded server that its user can do something about."""


class ServerError(Exception):
    """The server cannot start or run; the message says why and what to do."""


class StartStopped(Exception):
    """The server was told to stop before it was ready; it has been removed completely."""
