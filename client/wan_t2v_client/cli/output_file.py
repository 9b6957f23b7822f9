"""The output of a video: a file is replaced by a whole one; what cannot be replaced is written in place."""

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

from wan_t2v_client.cli.standard_streams import tell, write_through

STANDARD_OUTPUT = Path("-")
_OWN_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?P<process>\d+)(?:/task/\d+)?)/fd/(?P<number>\d+)")
_MOST_LINKS = 40  # Linux' own limit
_MOUNT = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class OutputFile:
    """An output path, checked for writing before the video is made. Use it as a context.

    Links are followed and stay. A regular file is replaced in one step and keeps its mode; a new one gets its mode by
    the umask. What cannot be replaced, such as a device, is opened now and written in place. `-` is standard output.

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
        """Whether the video goes to the command's standard output."""
        if self._descriptor is None or not self._is_duplicate or sys.stdout is None:
            return False
        return os.path.samestat(os.fstat(self._descriptor), os.fstat(1))

    def write(self, data: bytes) -> None:
        """Write the whole video. A file that can be replaced is complete or as before, even if the machine crashes.

        If only the last step fails, a complete file stays beside it under a name that the OSError tells.
        """
        with _errors_with_name(self._name):
            if self._descriptor is None:
                _replace(self._target, data)
                return
            if not self._is_duplicate and stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                _overwrite(self._descriptor, data)
            else:
                write_through(self._descriptor, data)


@contextmanager
def _errors_with_name(name: str) -> Iterator[None]:
    """Put the caller's name for the file into each OSError, in place of a temporary file's name or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def _duplicate_descriptor(path: Path) -> int | None:
    """Duplicate the descriptor of `-`, `/dev/stdout`, `/dev/fd/N` or links to them; None for any other path.

    Opened by name, the file behind `/dev/stdout` would be replaced, while the shell's redirection kept the old one.
    """
    number = 1 if path == STANDARD_OUTPUT else _number_of_own_descriptor(path)
    if number is None:
        return None
    if number == 1 and sys.stdout is None:  # it was closed, so another file may have its number
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    descriptor = os.dup(number)
    try:
        os.write(descriptor, b"")  # fails if it is open for reading only
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
    """Open a file that cannot be replaced; None for a regular or new file in a writable folder."""
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
        _check_replaceable(target)
    except OSError:
        return _open_as_it_is(target)
    return None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OSError with its name if no file can be written in it."""
    with _errors_with_name(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder)


def check_output(path: Path) -> None:
    """Raise OSError with the path's name if it could not be written to.

    A named pipe is not opened: that would wait for its reader, and closing it would be the end of file to the reader.
    """
    if not path.is_fifo() or _number_of_own_descriptor(path) is not None:
        with OutputFile(path):
            return
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _check_folder(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _check_replaceable(file: Path) -> None:
    """Raise OSError if the regular file could not be replaced.

    That is another user's in a folder with the sticky bit, such as /tmp, one with the immutable attribute, and one
    that is mounted by itself. Linux checks the right to take a name away before it sees that `rmdir` was given no
    folder, so nothing is removed. It looks for a mount only after that.
    """
    with suppress(NotADirectoryError, FileNotFoundError):
        os.rmdir(file)  # noqa: PTH106
    with suppress(FileNotFoundError):
        if _mount_id(file) != _mount_id(file.parent):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _mount_id(path: Path) -> int | None:
    """Return the number of the mount that the path is on; None where the system tells none.

    The device's number is no help: it is the same for a file that is mounted from elsewhere on one file system.
    """
    if not hasattr(os, "O_PATH"):  # not Linux
        return None
    descriptor = os.open(path, os.O_PATH)
    try:
        match = _MOUNT.search(Path(f"/proc/self/fdinfo/{descriptor}").read_text())
    except OSError:  # no /proc
        return None
    finally:
        os.close(descriptor)
    return int(match[1]) if match else None


def _open_as_it_is(target: Path) -> int:
    """Open without creating or truncating. A terminal does not become the controlling one; a pipe awaits a reader."""
    return os.open(target, os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0))


def _overwrite(descriptor: int, data: bytes) -> None:
    """Write into a regular file from its beginning. After an error or Ctrl-C it has no end of the old content."""
    try:
        write_through(descriptor, data)
    finally:
        if written := os.lseek(descriptor, 0, os.SEEK_CUR):  # if nothing was written, the old content stays
            os.ftruncate(descriptor, written)


def _replace(target: Path, data: bytes) -> None:
    # Not made of the target's name, which may have the greatest length that the file system allows.
    partial = target.with_name(f".wan-t2v-{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            _take_over_mode(target, partial)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        is_in_place = _rename(partial, target)
    except _NotInPlace:
        raise  # the partial file is all that there is of minutes of work
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if not is_in_place:
        _write_into(target, data, complete=partial)


class _NotInPlace(OSError):
    """A complete file could not be given its name, and was kept under another."""


def _take_over_mode(target: Path, partial: Path) -> None:
    """Copy the existing file's mode and, if that is possible, its owner."""
    with suppress(FileNotFoundError):
        old = target.stat()
        shutil.copymode(target, partial)  # first: it may be refused once the file has another owner
        with suppress(OSError):  # not permitted, or an owner that this container does not know
            os.chown(partial, old.st_uid, old.st_gid)


def _rename(partial: Path, target: Path) -> bool:
    """Give the complete file its name. Returns False if no file can replace the target, since it is a mount."""
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise _with_place(error, partial) from None
    return True


def _write_into(target: Path, data: bytes, *, complete: Path) -> None:
    """Write into a file that became a mount after the check, or whose mount the system did not tell.

    The complete file beside it stays until that is done: the target is not whole meanwhile.
    """
    try:
        descriptor = _open_as_it_is(target)
        try:
            _overwrite(descriptor, data)
        finally:
            os.close(descriptor)
        complete.unlink()
    except OSError as error:
        raise _with_place(error, complete) from None
    except BaseException:  # Ctrl-C
        if complete.exists():
            tell(f"wan-t2v: warning: {target} may be cut short; it was kept as {complete}, move it from there")
        raise


def _with_place(error: OSError, complete: Path) -> OSError:
    """Return the error, with the complete file's name unless somebody removed it."""
    if not complete.exists():
        return error
    return _NotInPlace(error.errno, f"{error.strerror}; it was kept as {complete}, move it from there")
