"""Shared memory between a Triton server and its Python models: one region per process, which never shrinks.

A region grows with the largest tensors of any request, rejected ones included: Triton copies a request's tensors before
a model sees them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wan_t2v.operate.processes import stubs

FOLDER = Path("/dev/shm")  # noqa: S108 - the kernel's folder
FULL_SHARE = 0.8  # of the file system; the alert WanT2vSharedMemory has the same threshold


@dataclass(frozen=True)
class SharedMemoryUse:
    """Bytes that the regions of one server occupy, and the size of the file system they are in."""

    region_bytes: int
    size_bytes: int

    @property
    def is_full(self) -> bool:
        """Whether the next large request may find no room."""
        return self.region_bytes > FULL_SHARE * self.size_bytes


def shared_memory_of(server_pid: int) -> SharedMemoryUse:
    """Measure the regions of the server's living Python processes."""
    return use_of((stub.region for stub in stubs(server_pid)), FOLDER)


def use_of(regions: Iterable[str], folder: Path) -> SharedMemoryUse:
    """Measure the regions of these names in `folder`; missing ones count as 0 bytes."""
    system = os.statvfs(folder)
    occupied = sum(_occupied(folder / region.lstrip("/")) for region in regions if region)
    return SharedMemoryUse(occupied, system.f_blocks * system.f_frsize)


def free_bytes(folder: Path = FOLDER) -> int:
    """Measure how many bytes the regions can still grow by, all together."""
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize


def remove_regions(folder: Path, prefix: str) -> None:
    """Remove the regions that a server whose regions' names begin with `prefix` left in `folder`."""
    for region in folder.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _occupied(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512  # POSIX counts blocks of 512 bytes, whatever the file system has
    except OSError:
        return 0
