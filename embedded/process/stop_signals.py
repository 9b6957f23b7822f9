"""Signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes."""

import contextlib
import signal
from collections.abc import Iterator


def stop_signals() -> list[signal.Signals]:
    """Return the signals to heed. SIGHUP is none of them where it is ignored, as nohup starts a command."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for each of the signals, so that what runs cleans up. Earlier handlers come back."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
