"""Time and peak memory of this process so far. A process must run one job only for its peak to be the job's."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STARTED_FIELD = 19  # `starttime` in /proc/self/stat, counted after the process's name: clock ticks since boot


@dataclass(frozen=True)
class ProcessCost:
    """Cost of a process.

    Attributes:
        seconds: wall-clock time since the process started, imports included.
        cpu_seconds: CPU time.
        peak_mb: peak resident memory in MB (1e6 bytes).
    """

    seconds: float
    cpu_seconds: float
    peak_mb: int


def process_cost() -> ProcessCost:
    """Read this process's cost from /proc. Linux only."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_STARTED_FIELD])
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    # not ru_maxrss: a new process inherits its parent's value
    peak_kib = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return ProcessCost(round(seconds, 1), round(time.process_time(), 1), round(peak_kib * 1024 / 1e6))
