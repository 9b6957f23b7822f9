"""Detect a start that will never end: a Python process died while it loaded its model, and Triton waits for it."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

STILL_S = 10.0
LONGEST_LOOK_S = 1.0  # most that one interval between checks counts: this process may have been stopped as well
# Seconds of processor time within STILL_S. Deadlocked processes were seen to use 0.03. A process that loads a model
# uses more than this limit, even if it shares its core with twenty others.
LEAST_CPU_S = 0.2


@dataclass(frozen=True)
class Activity:
    """Total work of a server's processes, and whether one waits for a disk now."""

    cpu_s: float
    read_bytes: int
    waits_for_disk: bool = False


@dataclass
class StillStart:
    """Progress check of a server that is not ready yet."""

    log: Path
    activity: Callable[[], Activity]
    now: Callable[[], float] = time.monotonic
    _known: Activity = Activity(-1.0, -1)
    _told: int = -1
    _still_s: float = 0.0
    _looked_at: float = 0.0

    def is_seen(self) -> bool:
        """Check again. Returns whether nothing was computed, read or logged for STILL_S."""
        activity, told, now = self.activity(), self._log_bytes(), self.now()
        if self._moved(activity) or told != self._told:
            self._known, self._told, self._still_s = activity, told, 0.0
        else:
            self._still_s += min(now - self._looked_at, LONGEST_LOOK_S)
        self._looked_at = now
        return self._still_s >= STILL_S

    def _moved(self, activity: Activity) -> bool:
        computed = abs(activity.cpu_s - self._known.cpu_s) >= LEAST_CPU_S  # it falls when a process ends
        return computed or activity.read_bytes > self._known.read_bytes or activity.waits_for_disk

    def _log_bytes(self) -> int:
        with contextlib.suppress(OSError):  # the log was removed
            return self.log.stat().st_size
        return 0


def activity_of(pid: int) -> Activity:
    """Measure the activity of a process and its living descendants."""
    cpu_s, read_bytes, waits = 0.0, 0, False
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = one.cpu_times()
                cpu_s += times.user + times.system
                waits = waits or one.status() == psutil.STATUS_DISK_SLEEP
                read_bytes += one.io_counters().read_bytes
    return Activity(cpu_s, read_bytes, waits)
