"""Soak: load for some minutes, samples of the server's footprint, and their judgement."""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil

from embedded.errors import ServerError
from embedded.server import Server
from embedded.supervision.supervisor import died_log
from tests.server.calls import samples as metrics
from tests.stress.faults.footprint import Allowance, Footprint
from tests.stress.faults.victim import holds_no_place
from tests.stress.soak.endings import Ending
from tests.stress.soak.flatness import Judged, judged
from tests.stress.soak.traffic import Traffic
from tests.waiting import becomes_true
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory

CLIENTS = 4
SAMPLES = 120  # per run, at most one per second
EMPTY_LIMIT_S = 120.0
SETTLED_S = 30.0
# Allowed rise between two quarters, see tests/stress/soak/flatness.py.
MEMORY_MIB, MEMORY_SHARE = 16.0, 0.05
OPEN_FILES, REGIONS, REGIONS_MIB = 10, 0, 8.0
# Allowance of the idle server after the load, compared with before. Memory is judged by the quarters only.
IDLE = Allowance(memory_mib=math.inf, memory_share=0, open_files=16, regions=0)
FAILED = 'outcome="failed"'


@dataclass
class Soak:
    """Samples and endings of a soak. `at_min` has the samples' times in minutes."""

    minutes: float
    seed: int
    before: Footprint
    after: Footprint | None = None
    at_min: list[float] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    failed: float = 0.0
    empty: bool = False  # whether all slots were free at the end

    @property
    def series(self) -> dict[str, list[float]]:
        """Samples of each measured quantity."""
        found: dict[str, list[float]] = {
            f"memory of {model}, MiB": [one.memory_mib.get(model, 0.0) for one in self.footprints]
            for model in self.before.memory_mib
        }
        found["memory of all, MiB"] = [round(sum(one.memory_mib.values()), 1) for one in self.footprints]
        found["open files"] = [sum(one.open_files.values()) for one in self.footprints]
        found["processes"] = [sum(one.processes.values()) for one in self.footprints]
        found["shared memory, regions"] = [one.regions for one in self.footprints]
        found["shared memory, MiB"] = [one.regions_mib for one in self.footprints]
        return found

    def judged(self) -> list[Judged]:
        """Judge the flatness of each series."""
        allowed = {"open files": OPEN_FILES, "processes": 0, "shared memory, regions": REGIONS}
        allowed["shared memory, MiB"] = REGIONS_MIB
        return [
            judged(name, series, allowed=allowed[name])
            if name in allowed
            else judged(name, series, allowed=MEMORY_MIB, allowed_share=MEMORY_SHARE)
            for name, series in self.series.items()
        ]

    def wrong_ends(self) -> list[str]:
        """Return faults of endings: answers that were lost, doubled or wrong, and unexpected errors."""
        found = [fault for ending in self.endings if (fault := ending.fault)]
        return found + ([f"the server counts {self.failed:g} requests as failed"] if self.failed else [])

    def left_behind(self) -> list[str]:
        """Return the growth of the idle server's footprint, and slots that are still held."""
        grown = [] if self.after is None else self.after.grown_since(self.before, IDLE)
        return [f"when idle again: {found}" for found in [*grown, *([] if self.empty else ["places are held"])]]

    def not_flat(self) -> list[str]:
        """Return the series that are not flat."""
        return [fault for one in self.judged() if (fault := one.fault)]

    def faults(self) -> list[str]:
        """Return all faults."""
        return [*self.wrong_ends(), *self.left_behind(), *self.not_flat()]

    def result(self) -> dict[str, Any]:
        """Return the content of the results file."""
        counted = Counter(f"{ending.kind}: {ending.outcome}" for ending in self.endings)
        flat = [
            {
                "series": one.name,
                "second_quarter": one.second_quarter,
                "last_quarter": one.last_quarter,
                "allowed_rise": one.allowed_rise,
                "flat": one.is_flat,
            }
            for one in self.judged()
        ]
        faults = self.faults()
        return {
            "minutes": self.minutes,
            "seed": self.seed,
            "requests": len(self.endings),
            "ended": dict(sorted(counted.items())),
            "flatness": flat,
            "idle_before": vars(self.before),
            "idle_after": vars(self.after) if self.after else None,
            "faults": len(faults),
            "first_faults": faults[:20],
            "at_min": self.at_min,
            "series": self.series,
        }


def soaked(server: Server, *, minutes: float, seed: int, tell: Callable[[str], None] = print) -> Soak:
    """Put load on a server for some minutes, and sample it during and after the load. Raises ServerError if it dies."""
    traffic, pid = Traffic(server, seed), server.pid
    failed = _failed(server)
    soak = Soak(minutes, seed, before=Footprint.of_server(server))
    began = time.monotonic()
    until, interval_s = began + 60 * minutes, max(1.0, 60 * minutes / SAMPLES)
    lock, stopped = threading.Lock(), threading.Event()

    def ended() -> bool:
        return stopped.is_set() or time.monotonic() >= until

    def heard(ending: Ending) -> None:
        with lock:
            soak.endings.append(ending)
            if ending.fault:
                tell(f"wrong: {ending.fault}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(traffic.client, number, ended=ended, tell=heard) for number in range(CLIENTS)]
        try:
            while not ended():
                time.sleep(interval_s)
                _check_alive(server, pid, began=began)
                with contextlib.suppress(ServerError):  # it died just now, which the next check reports
                    soak.footprints.append(Footprint.of_server(server))
                soak.at_min.append(round((time.monotonic() - began) / 60, 3))
                if len(soak.footprints) % 12 == 0:
                    tell(_line(soak))
        finally:  # also after Ctrl-C, or the clients would continue
            stopped.set()
        for client in clients:
            client.result()
    run = RunDirectory(server.run_directory)
    soak.empty = becomes_true(lambda: holds_no_place(load_of(run)), EMPTY_LIMIT_S)
    becomes_true(lambda: not Footprint.of_server(server).grown_since(soak.before, IDLE), SETTLED_S)
    _check_alive(server, pid, began=began)
    soak.after = Footprint.of_server(server)
    soak.failed = _failed(server) - failed
    return soak


def _check_alive(server: Server, pid: int, *, began: float) -> None:
    """Raise ServerError if the server died. The supervisor restarts a dead server and renames its log."""
    if not _lives(pid):
        log = next((log for log in (died_log(server.log), server.log) if log.exists()), server.log)
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        raise ServerError(f"the server died after {(time.monotonic() - began) / 60:.1f} min: {' / '.join(last)}")


def _lives(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _failed(server: Server) -> float:
    """Return the number of requests that the server counts as its own failures."""
    return sum(value for name, value in metrics(server).items() if FAILED in name)


def _line(soak: Soak) -> str:
    series = soak.series
    wrong = sum(ending.fault is not None for ending in soak.endings)
    return (
        f"{soak.at_min[-1]:.1f} of {soak.minutes:g} min: {len(soak.endings)} requests, {wrong} wrong, "
        f"{series['memory of all, MiB'][-1]:.0f} MiB, {series['open files'][-1]:.0f} open files, "
        f"{series['shared memory, MiB'][-1]:.1f} MiB shared"
    )
