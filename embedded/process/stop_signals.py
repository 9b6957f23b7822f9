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
    """Raise KeyboardInterrupt for each of the signals, so that what runs cleans up. Earlier handlers come back.

    One that is ignored stays so, such as Ctrl-C in a command that a script put into the background.
    """
    heeded = [number for number in stop_signals() if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
