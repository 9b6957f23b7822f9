"""Drain a server before it is stopped: SIGTERM alone aborts running generations, in Triton 2.71 after a delay."""

import time
from collections.abc import Callable

from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory

POLL_S = 0.5
SETTLE_S = 1.0  # for the last response to leave the server after its slot was freed
TELL_EVERY_S = 10.0


def drain(run: RunDirectory, *, wait_s: float, tell: Callable[[str], None]) -> bool:
    """Switch draining on and wait until the server is empty. Returns whether it was within `wait_s` seconds."""
    run.drain()
    began = time.monotonic()
    empty_since: float | None = None
    last_counts, reported_at = "", began
    while True:
        load, now = load_of(run), time.monotonic()
        counts = str((load.in_flight, load.queued, load.finishing))
        if counts != last_counts or now - reported_at >= TELL_EVERY_S:
            tell(f"draining: {load}")
            last_counts, reported_at = counts, now
        empty_since = (empty_since or now) if load.is_empty else None
        if empty_since is not None and now - empty_since >= SETTLE_S:
            return True
        if now - began >= wait_s:
            return load.is_empty
        time.sleep(POLL_S)
