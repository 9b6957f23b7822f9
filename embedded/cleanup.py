"""One server's folder and shared memory: locked while the server lives, and removed after it.

A lock decides whether a server lives, not a process id. Other containers may share /tmp or /dev/shm, but their
processes are not visible here, and ids occur twice. The kernel frees a lock when the last process that holds it ends.
Only files with the mark of this program are ever removed.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import ServerError
from embedded.private_regions import close_regions
from wan_t2v.operate import file_lock
from wan_t2v.operate.file_lock import is_still, try_lock
from wan_t2v.operate.shared_memory import remove_regions

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's folder
SHM_PREFIX = "wan_t2v_"
FOLDER_PREFIX = "wan-t2v-"
MARK = "folder-of-a-wan-t2v-server"
LOCK_PREFIX = "wan_t2v.lock."  # beside the regions of SHM_PREFIX, not among them


@dataclass
class Belongings:
    """One server's folder and prefix of shared memory, locked while any process has the descriptors `locks` open."""

    folder: Path
    shm_prefix: str
    locks: tuple[int, int]

    @classmethod
    def acquire(cls, temporary: Path) -> "Belongings":
        """Make and lock a folder under `temporary`, and a prefix that no other server has. Raises ServerError."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=temporary))
            name = folder.name.removeprefix(FOLDER_PREFIX).replace("-", "_")
            return cls(
                folder, f"{SHM_PREFIX}{name}_", (_lock_and_mark(folder), _create_locked_file(SHARED_MEMORY, name))
            )
        except OSError as error:
            raise ServerError(
                f"the server's files cannot be made in {temporary} and {SHARED_MEMORY} ({error.strerror}): free some "
                "space there, or set TMPDIR to another folder"
            ) from None

    @property
    def run_directory(self) -> Path:
        """Run directory of the server, see `wan_t2v.operate.run_directory`."""
        return self.folder / "run"

    @property
    def are_there(self) -> bool:
        """Whether the original folder still exists, with its mark and the server's run directory."""
        try:
            same = os.path.samestat(self.folder.stat(), os.fstat(self.locks[0]))
        except OSError:
            return False
        return same and (self.folder / MARK).exists() and self.run_directory.exists()

    def close_regions(self) -> None:
        """Make this server's shared memory private, in case the kernel's filter did not."""
        close_regions(SHARED_MEMORY, self.shm_prefix)

    def remake_folder(self) -> None:
        """Make the folder again at the same path after it was removed. Raises ServerError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(mode=0o700)
            lock = _lock_and_mark(self.folder)
        except OSError as error:
            raise ServerError(
                f"the server's folder {self.folder} was removed, and is not to be made again "
                f"({error.strerror}): free some space there, and set TMPDIR to a folder that nobody cleans"
            ) from None
        os.close(self.locks[0])
        self.locks = (lock, self.locks[1])

    def remove(self) -> None:
        """Remove the folder, the shared memory and the locks."""
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_regions(SHARED_MEMORY, self.shm_prefix)
        name = self.shm_prefix.removeprefix(SHM_PREFIX).removesuffix("_")
        (SHARED_MEMORY / f"{LOCK_PREFIX}{name}").unlink(missing_ok=True)
        for lock in self.locks:
            os.close(lock)


def remove_leftovers(temporary: Path) -> None:
    """Remove folders and shared memory of servers without a living process, such as after a kill or a power loss."""
    for folder in temporary.glob(f"{FOLDER_PREFIX}*"):
        if _is_marked(folder):
            with _lock_if_abandoned(folder, os.O_RDONLY | os.O_DIRECTORY) as abandoned:
                if abandoned:
                    shutil.rmtree(folder, ignore_errors=True)
    for lock in SHARED_MEMORY.glob(f"{LOCK_PREFIX}*"):
        with _lock_if_abandoned(lock, os.O_RDWR) as abandoned:
            if abandoned:
                remove_regions(SHARED_MEMORY, f"{SHM_PREFIX}{lock.name.removeprefix(LOCK_PREFIX)}_")
                lock.unlink(missing_ok=True)


def _is_marked(folder: Path) -> bool:
    """Whether this program made the folder; another user's unreadable folder counts as not ours."""
    try:
        return (folder / MARK).exists()
    except OSError:
        return False


@contextlib.contextmanager
def _lock_if_abandoned(path: Path, flags: int) -> Iterator[bool]:
    """Lock a file of this user if no process holds its lock; yield whether that succeeded."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # another user's, or gone meanwhile
        yield False
        return
    try:
        yield os.fstat(descriptor).st_uid == os.geteuid() and try_lock(descriptor)
    finally:
        os.close(descriptor)


def _lock_and_mark(folder: Path) -> int:
    """Lock a folder, then mark it: without the mark, `remove_leftovers` ignores it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file_lock.lock(lock)
        (folder / MARK).touch(mode=0o600)
    except OSError:  # such as a full disk, after which this is tried again for as long as that lasts
        os.close(lock)
        raise
    return lock


def _create_locked_file(folder: Path, name: str) -> int:
    """Create and lock a file; try again if `remove_leftovers` removed it before it was locked."""
    path = folder / f"{LOCK_PREFIX}{name}"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        file_lock.lock(lock)
        if is_still(path, lock):
            return lock
        os.close(lock)
