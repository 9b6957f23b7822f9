"""Footprint of a server, for finding leaks: processes, memory, open files, shared memory."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from embedded.cleanup import SHARED_MEMORY, SHM_PREFIX
from embedded.server import Server
from wan_t2v.operate.processes import stub_pids

PROCESSES = Path("/proc")
TRITON, SUPERVISOR = "tritonserver", "supervisor"
MIB = 2**20


@dataclass(frozen=True)
class Allowance:
    """Growth that does not count as a leak.

    Attributes:
        memory_mib, memory_share: of each model's processes, the larger of both. Allocators keep memory that they once
            needed, and a restarted process needs another amount than the one before.
        open_files: in all processes together.
        regions: shared memory regions.
    """

    memory_mib: float
    memory_share: float
    open_files: int
    regions: int

    def memory(self, before_mib: float) -> float:
        """Return the allowed growth in MiB of processes that had `before_mib`."""
        return max(self.memory_mib, self.memory_share * before_mib)


@dataclass(frozen=True)
class Footprint:
    """Resources of a server at one moment.

    Attributes:
        processes, memory_mib, open_files: by model, and of tritonserver and its supervisor. Memory is anonymous pages,
            swapped-out ones included. Mapped files are not counted, since the kernel can reclaim them, and shared
            memory is counted separately. Open files include sockets and pipes.
        regions, regions_mib: shared memory between Triton and its Python processes.
    """

    processes: dict[str, int]
    memory_mib: dict[str, float]
    open_files: dict[str, int]
    regions: int
    regions_mib: float

    @classmethod
    def of_server(cls, server: Server) -> "Footprint":
        """Measure a running server."""
        living = stub_pids(server.pid) | {TRITON: {server.pid}, SUPERVISOR: {server.supervisor_pid}}
        regions = list(SHARED_MEMORY.glob(f"{SHM_PREFIX}{server.supervisor_pid}_*"))
        return cls(
            processes={model: len(pids) for model, pids in living.items()},
            memory_mib={model: round(sum(map(allocated_mib, pids)), 2) for model, pids in living.items()},
            open_files=_open_files(living, server.pid),
            regions=len(regions),
            regions_mib=round(sum(map(_used, regions)) / MIB, 2),
        )

    def grown_since(self, before: "Footprint", allowance: Allowance) -> list[str]:
        """Describe what grew since `before` by more than the allowance."""
        found = []
        if self.processes != before.processes:
            found.append(f"processes are {_differing(self.processes, before.processes)}")
        for model, was_mib in before.memory_mib.items():
            now_mib = self.memory_mib.get(model, 0.0)
            if now_mib > was_mib + allowance.memory(was_mib):
                found.append(f"memory of {model} is {now_mib:.0f} MiB, it was {was_mib:.0f}")
        if sum(self.open_files.values()) > sum(before.open_files.values()) + allowance.open_files:
            found.append(f"open files are {_differing(self.open_files, before.open_files)}")
        if self.regions > before.regions + allowance.regions:
            found.append(f"{self.regions} regions of shared memory, there were {before.regions}")
        return found


def allocated_mib(pid: int) -> float:
    """Return the anonymous memory of a process in MiB, 0 if it has ended."""
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for line in (PROCESSES / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "VmSwap"):
                found[name] = int(value.split()[0])
    return found.total() / 1024


def open_files(pid: int) -> list[str]:
    """List a process's open files, sockets and pipes as Linux names them. Empty if it has ended."""
    found = []
    with contextlib.suppress(OSError):
        for link in (PROCESSES / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(str(link.readlink()))
    return found


def _open_files(living: dict[str, set[int]], triton_pid: int) -> dict[str, int]:
    """Count open files by model. Sockets and pipes that processes inherit from tritonserver are counted once."""
    of_triton = {target for target in open_files(triton_pid) if target.startswith(("socket:", "pipe:"))}
    return {
        model: sum(pid == triton_pid or target not in of_triton for pid in pids for target in open_files(pid))
        for model, pids in living.items()
    }


def _used(region: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return region.stat().st_blocks * 512
    return 0


def _differing(now: dict[str, int], before: dict[str, int]) -> str:
    names = sorted(now.keys() | before.keys())
    return ", ".join(
        f"{name} {now.get(name, 0)} (was {before.get(name, 0)})"
        for name in names
        if now.get(name, 0) != before.get(name, 0)
    )
