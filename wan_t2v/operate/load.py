"""Load of a server: running, queued and finishing generations, from its run directory."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from wan_t2v.contract import UNARY
from wan_t2v.operate.run_directory import FINISHING, IN_TRANSIT, PREPARING, RUNNING, WAITING, RunDirectory

# Kind of slot that each `denoiser` process holds while it lives. It reports when it last started or ended work.
LOOPS = "loop"
TRANSIT_S = 5.0
FINISHING_LIMIT_S = 300.0  # a clip whose decoding failed may leave its mark; no decoding takes this long


@dataclass(frozen=True)
class Load:
    """Load of a server. `left_s` is the longest estimated time left of a running generation, in seconds, or None.

    `finishing` counts clips of the unary endpoint that are denoised and not yet encoded.
    """

    draining: bool
    in_flight: int
    queued: int
    finishing: int
    left_s: float | None

    @property
    def is_empty(self) -> bool:
        """Whether no generation is running, queued or finishing."""
        return not (self.in_flight or self.queued or self.finishing)

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", about {math.ceil(self.left_s)} s left of the longest"
        return f"{self.in_flight} in flight, {self.queued} queued, {self.finishing} finishing{left}"


def load_of(run: RunDirectory, now: Callable[[], float] = time.monotonic) -> Load:
    """Return the current load of the server that owns this run directory."""
    with run.exclusive():
        running = run.occupied(RUNNING)
        queued = len(run.occupied(WAITING)) + len(run.occupied(PREPARING)) + in_transit(run)
        finishing = run.clear(FINISHING, older_than_s=FINISHING_LIMIT_S)
        draining = run.draining
    left = [info.left_at(now()) for info in running]
    known = [seconds for seconds in left if seconds is not None]
    return Load(draining, len(running), queued, finishing, max(known, default=None))


def in_transit(run: RunDirectory) -> int:
    """Count admitted requests of the unary endpoint that wait in Triton's own queue for a `denoiser` process.

    No process holds their marks. If a `denoiser` process has been idle for TRANSIT_S, Triton's queue is empty. Marks
    of that age then belong to requests that ended on the way, and are removed.
    """
    loops = run.occupied(LOOPS)
    busy = sum(info.endpoint == UNARY for kind in (RUNNING, WAITING) for info in run.occupied(kind))
    idle_s = time.monotonic() - max((loop.reported_at for loop in loops), default=0.0)
    idle = busy < len(loops) and idle_s >= TRANSIT_S
    return run.clear(IN_TRANSIT, older_than_s=TRANSIT_S if idle or not loops else math.inf)
