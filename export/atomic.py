"""Atomic writes: write under a temporary name, then rename. A reader never sees a partly written file."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from export.errors import ExpectedError

_NAMED = 3  # most entries that a message lists
_SILENT_SECONDS = 3600.0  # after which a file that nobody wrote to has no writer, as writers write without a pause


class OccupiedFolderError(ExpectedError):
    """A folder that would be replaced and holds something that the command did not write."""


class SharedFolderError(ExpectedError):
    """A folder that two commands write at the same time."""


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success the temporary file replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder_atomically(folder: Path, *, made_here: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`. On success the temporary folder replaces `folder`.

    A link is followed: it stays, and the folder that it names is replaced, on that folder's disk.
    Raises OccupiedFolderError, before anything is written, for a folder that `check_replaceable` refuses.
    Raises SharedFolderError if another command took the temporary folder for a leftover.
    """
    check_replaceable(folder, made_here)
    folder = folder.resolve()
    if os.path.ismount(folder):
        raise OccupiedFolderError(f"{folder} is where a disk is mounted, and is not replaced. Name a folder in it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    partial.chmod(0o755)  # mkdtemp creates it with mode 0700
    try:
        yield partial
        old = partial.with_suffix(".old")
        if folder.exists():
            folder.replace(old)
        partial.replace(folder)
        with contextlib.suppress(FileNotFoundError):
            old.replace(partial)  # which is removed below: half of it must not be moved back after a kill
    except FileNotFoundError:
        if partial.exists():
            raise
        raise SharedFolderError(
            f"Another command that writes {folder} ran at the same time, and removed what this one had written. "
            "Run one at a time."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the partial files and folders that killed processes left in `folder`, of `name` or of every name.

    A folder that was moved away for one that never came is moved back.
    For a target with one writer at a time: what a running one has written would be removed too.
    """
    for path in _leftovers(folder, name):
        target = folder / path.name[1:].rsplit(".", 2)[0]
        if path.suffix == ".old" and not target.exists():
            path.replace(target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_abandoned(target: Path) -> None:
    """Remove the partial files of `target` that killed processes left, for a target that several may write at once.

    A file is left alone while the process in its name lives, and for an hour after the last write to it: processes of
    other containers and machines cannot be seen.
    """
    for path in _leftovers(target.parent, target.name):
        with contextlib.suppress(OSError):  # it was renamed just now, or is another user's
            if time.time() - path.stat().st_mtime > _SILENT_SECONDS and not _is_other_process(path.suffixes[-2][1:]):
                path.unlink()


def _is_other_process(number: str) -> bool:
    """Whether another process on this machine has this number."""
    if not number.isdecimal() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _leftovers(folder: Path, name: str | None) -> Iterator[Path]:
    leftover = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[a-z0-9_]+\.(partial|old)")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if leftover.fullmatch(path.name):
            yield path


def check_replaceable(folder: Path, made_here: Callable[[Path], bool]) -> None:
    """Accept a folder that is missing or empty, or that `made_here` recognises. Raises OccupiedFolderError."""
    if not folder.exists():
        _check_is_no_dead_link(folder)
        return
    if not folder.is_dir():
        raise OccupiedFolderError(f"{folder} is a file, accepted: a folder to write. Name another one.")
    entries = sorted(path.name for path in folder.iterdir())
    if entries and not made_here(folder):
        listed = ", ".join(entries[:_NAMED]) + (f" and {len(entries) - _NAMED} more" if entries[_NAMED:] else "")
        raise OccupiedFolderError(
            f"{folder} would be replaced and holds what this command did not write ({listed}); accepted: a new or "
            "empty folder, or one of this command's own. Name another folder, or remove this one."
        )


def folder_beside(folder: Path, suffix: str) -> Path:
    """Return the folder beside `folder` with its name, as it was given, and `suffix`. A link keeps its own name.

    Raises OccupiedFolderError for a root, which has no name.
    """
    named = folder.resolve() if folder.name in ("", "..") else folder
    if not named.name:
        raise OccupiedFolderError(f"{folder} is a root, and nothing can be beside it. Name a folder in it.")
    return named.with_name(f"{named.name}{suffix}")


def _check_is_no_dead_link(folder: Path) -> None:
    """Refuse a link to nothing: its disk may not be mounted, and another one would be filled in its place."""
    if folder.is_symlink():
        raise OccupiedFolderError(
            f"{folder} is a link to {folder.readlink()}, which is not there. Mount its disk or make that folder, or "
            "name another one."
        )


def holds_only(*patterns: str) -> Callable[[Path], bool]:
    """Return a test of a folder: whether each entry is a file with a name like one of `patterns`.

    Partial files, which a killed process leaves, count too.
    """
    accepted = (*patterns, ".*.partial")

    def made_here(folder: Path) -> bool:
        return all(path.is_file() and any(fnmatch(path.name, one) for one in accepted) for path in folder.iterdir())

    return made_here
