"""Base of the errors that a command reports in one line."""


class ExpectedError(Exception):
    """An error whose message says what is wrong and what to do. A command prints it without a traceback."""
