"""Signals that end a test run with clean-up, so that its servers and databases stop."""

import signal


def end_in_order() -> None:
    """Raise KeyboardInterrupt on SIGTERM and SIGINT, also in a background process, where shells ignore SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
