"""The output of a video: a file whole or not at all; a device, a pipe or an open file as it is."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

STANDARD_OUTPUT = Path("-")
_OWN_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?P<process>\d+)(?:/task/\d+)?)/fd/(?P<number>\d+)")
_MOST_LINKS = 40  # as many as Linux follows


class OutputFile:
    """A path that can be written to, as far as that can be known before. Use it as a context.

    Links are followed and stay. A regular file is replaced in one step and keeps its mode; a new one gets the mode
    that the umask leaves. What is no regular file is opened now and written into. `-` is standard output.

    Raises OSError with the path's name if it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._name = "standard output" if path == STANDARD_OUTPUT else str(path)
        self._target = Path(os.path.realpath(path))
        with _errors_with_name(self._name):
            self._descriptor = _duplicate_descriptor(path)
            self._is_duplicate = self._descriptor is not None
            if not self._is_duplicate:
                self._descriptor = _open_if_it_must_stay(path, self._target)

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    @property
    def is_standard_output(self) -> bool:
        """Whether the bytes go where the command prints."""
        if self._descriptor is None or not self._is_duplicate or sys.stdout is None:
            return False
        return os.path.samestat(os.fstat(self._descriptor), os.fstat(1))

    def write(self, data: bytes) -> None:
        """Write all of it. A regular file is there whole or not at all, also if the machine goes down."""
        with _errors_with_name(self._name):
            if self._descriptor is None:
                _replace(self._target, data)
                return
            _write_through(self._descriptor, data)
            if not self._is_duplicate and stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                os.ftruncate(self._descriptor, len(data))  # what was longer before


@contextmanager
def _errors_with_name(name: str) -> Iterator[None]:
    """The caller's own name for the file in each error, not that of a temporary one or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def _duplicate_descriptor(path: Path) -> int | None:
    """A second descriptor for `-`, `/dev/stdout`, `/dev/fd/N` and links to them; None for any other path.

    By its name, `/dev/stdout` of a redirected command would be replaced under the shell's feet.
    """
    number = 1 if path == STANDARD_OUTPUT else _number_of_own_descriptor(path)
    if number is None:
        return None
    if number == 1 and sys.stdout is None:  # it was closed; the number may belong to another file by now
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    descriptor = os.dup(number)
    try:
        os.write(descriptor, b"")  # fails if it is open for reading alone
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _number_of_own_descriptor(path: Path) -> int | None:
    for _ in range(_MOST_LINKS):
        match = _OWN_DESCRIPTOR.fullmatch(os.path.join(os.path.realpath(path.parent), path.name))  # noqa: PTH118
        if match and match["process"] in (None, str(os.getpid())):
            return int(match["number"])
        try:
            path = path.parent / path.readlink()
        except OSError:
            return None
    return None


def _open_if_it_must_stay(path: Path, target: Path) -> int | None:
    """What cannot be replaced, opened for writing; None for a regular file in a folder that takes another."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_folder(target.parent)
        return None
    if not stat.S_ISREG(mode):
        return _open_as_it_is(target)
    try:
        _check_folder(target.parent)
    except OSError:
        return _open_as_it_is(target)
    return None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OSError with its name if no file can be written in it."""
    with _errors_with_name(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _open_as_it_is(target: Path) -> int:
    """Neither made nor emptied. A terminal does not become the process's own; a pipe waits for its reader."""
    return os.open(target, os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0))


def _write_through(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _replace(target: Path, data: bytes) -> None:
    partial = target.with_name(f".wan-t2v-{secrets.token_hex(8)}.partial")  # fits wherever the name itself does
    try:
        with partial.open("xb") as file:
            _take_over_mode(target, partial)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _take_over_mode(target: Path, partial: Path) -> None:
    """The mode of the file that is there and, as far as that is allowed, its owner."""
    with suppress(FileNotFoundError):
        old = target.stat()
        with suppress(PermissionError):
            os.chown(partial, old.st_uid, old.st_gid)
        shutil.copymode(target, partial)


def _put_in_place(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        with target.open("wb") as file:  # a file that is mounted by itself, as containers do, cannot be replaced
            file.write(partial.read_bytes())
        partial.unlink()
