"""Wait for a state. A test that waits for seconds instead fails on a busy machine."""

import contextlib
import time
from collections.abc import Callable

import psutil

LIMIT_S = 120.0  # for what takes a moment on a quiet machine
POLL_S = 0.05


def becomes_true(condition: Callable[[], object], limit_s: float = LIMIT_S, *, poll_s: float = POLL_S) -> bool:
    """Wait until a condition holds. Returns False if it does not within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until a condition holds. Raises AssertionError if it does not within the limit."""
    assert becomes_true(condition, limit_s), "did not happen in time"


def has_ended(process: psutil.Process) -> bool:
    """Whether a process ended; whoever adopted it may not have waited for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True
