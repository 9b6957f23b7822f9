"""Cost of this process so far. It is meant for a process with one piece of work, whose peak is then its own."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STARTED_FIELD = 19  # of /proc/self/stat after the process's name: clock ticks from boot to the process's start


@dataclass(frozen=True)
class ProcessCost:
    """Seconds since the process began, imports included; seconds of CPU; peak of resident memory in MB (1e6 bytes)."""

    seconds: float
    cpu_seconds: float
    peak_mb: int


def process_cost() -> ProcessCost:
    """Read this process's own account from Linux."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_STARTED_FIELD])
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    # not ru_maxrss: a new process starts with its parent's
    peak_kib = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return ProcessCost(round(seconds, 1), round(time.process_time(), 1), round(peak_kib * 1024 / 1e6))
