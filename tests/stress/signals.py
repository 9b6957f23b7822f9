"""Signals that end a run of tests in order, so that servers and databases stop with who started them."""

import signal


def end_in_order() -> None:
    """Take SIGTERM as Ctrl-C, and Ctrl-C also where a shell lets what it starts in the background ignore it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
