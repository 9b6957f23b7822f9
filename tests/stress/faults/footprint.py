"""What a server holds of the machine, to see whether anything leaks: processes, memory, open files, shared memory."""

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
    """How much more than before is no leak yet.

    Attributes:
        memory_mib, memory_share: of each model's processes, whichever of the two is more; allocators keep what they
            once needed, and a process that was started again needs other amounts than the one before it.
        open_files: of all processes together.
        regions: of shared memory.
    """

    memory_mib: float
    memory_share: float
    open_files: int
    regions: int

    def memory(self, before_mib: float) -> float:
        """For processes that had so much."""
        return max(self.memory_mib, self.memory_share * before_mib)


@dataclass(frozen=True)
class Footprint:
    """At one moment.

    Attributes:
        processes, memory_mib, open_files: by model, and of Triton's own process and its supervisor. Memory is what
            they allocated (anonymous pages, also those swapped out). Mapped files are the kernel's to take back, and
            shared memory is counted apart. Open files are also sockets and pipes.
        regions, regions_mib: shared memory between Triton and its Python processes.
    """

    processes: dict[str, int]
    memory_mib: dict[str, float]
    open_files: dict[str, int]
    regions: int
    regions_mib: float

    @classmethod
    def of_server(cls, server: Server) -> "Footprint":
        """Of a running server, now."""
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
        """What is more than it was, by more than is allowed."""
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
    """Memory that a process allocated, in MiB; none if it ended meanwhile."""
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for line in (PROCESSES / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "VmSwap"):
                found[name] = int(value.split()[0])
    return found.total() / 1024


def open_files(pid: int) -> list[str]:
    """What a process has open, as Linux names it: paths, sockets, pipes; nothing if it ended meanwhile."""
    found = []
    with contextlib.suppress(OSError):
        for link in (PROCESSES / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(str(link.readlink()))
    return found


def _open_files(living: dict[str, set[int]], triton_pid: int) -> dict[str, int]:
    """How many by model. A process that Triton starts later inherits about twenty of its sockets: counted once."""
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
