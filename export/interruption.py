"""SIGTERM handled like Ctrl-C, so that a command that is evicted or reaches its deadline removes its partial files.

Both can be deferred while a library runs that ends the process on an exception inside a callback.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM. The handler of before is put back at the end."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupted:
    """Flag for Ctrl-C or SIGTERM while a library runs.

    KeyboardInterrupt inside a callback of TensorRT, or of torch's writer, would end the process. The signal handler
    therefore sets this flag, the next callback stops the work, and `interruptible` raises after the library returned.
    """

    def __init__(self) -> None:
        self.requested = False

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal: set the flag."""
        self.requested = True


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Defer Ctrl-C and SIGTERM while a library runs. Raises KeyboardInterrupt at the end if either came."""
    interrupted = Interrupted()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield interrupted
        return
    before = {number: signal.signal(number, interrupted.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted.requested:
        raise KeyboardInterrupt


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the removal of partial files
    for child in multiprocessing.active_children():  # a terminal sends Ctrl-C to them too, SIGTERM comes here alone
        if child.pid is not None:
            os.kill(child.pid, signal.SIGINT)
    raise KeyboardInterrupt
