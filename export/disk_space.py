"""Disk space check before a long job: the bytes that it will write, added up per file system."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExpectedError


class DiskSpaceError(ExpectedError):
    """Too little disk space. The message has the needed and free bytes, the folders and their purposes."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a job will write to a folder, and their purpose. The folder need not exist yet."""

    folder: Path
    needed_bytes: float
    purpose: str


def check_disk_space(needs: Iterable[DiskNeed]) -> None:
    """Refuse needs that exceed the free space. Needs on one file system are added up. Raises DiskSpaceError."""
    by_device: dict[int, list[DiskNeed]] = {}
    for need in needs:
        by_device.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for group in by_device.values():
        _check(group)


def on_one_disk(folder: Path, other: Path) -> bool:
    """Whether two folders are on one file system, so that a file can be linked. They need not exist yet."""
    return _existing(folder).stat().st_dev == _existing(other).stat().st_dev


def _check(needs: list[DiskNeed]) -> None:
    free = shutil.disk_usage(_existing(needs[0].folder)).free
    total = sum(need.needed_bytes for need in needs)
    if total <= free:
        return
    parts = "; ".join(f"{need.purpose} in {need.folder}: {_gb(need.needed_bytes)}" for need in needs)
    raise DiskSpaceError(
        f"{_gb(total)} of disk are needed and {_gb(free)} are free ({parts}). "
        "Free some space, or choose folders on another disk, and run it again."
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.exists())


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
