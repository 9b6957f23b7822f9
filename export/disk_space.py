"""Disk space check before hours of work: everything that will be written, added up per file system."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class DiskSpaceError(Exception):
    """Too little room; the message says how much is needed, where, for what, and how much is there."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that will be written to a folder, which need not exist yet, and what for."""

    folder: Path
    needed_bytes: float
    purpose: str


def check_disk_space(needs: Iterable[DiskNeed]) -> None:
    """Refuse what does not fit; folders on one file system share its room. Raises DiskSpaceError."""
    by_device: dict[int, list[DiskNeed]] = {}
    for need in needs:
        by_device.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for group in by_device.values():
        _check(group)


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
    """The folder, or the nearest one above it that exists."""
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.exists())


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
