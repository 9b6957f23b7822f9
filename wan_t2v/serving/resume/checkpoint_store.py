"""Checkpoints of running generations, on disk: after a crash the same request resumes from the last one.

<folder>/<hash of caller and key>.checkpoint   latents, solver state, step, and what they belong to
<folder>/<hash of caller and key>.lock         held by the process that works on it; freed by the kernel when it dies
<folder>/index.sqlite3                         size and age of each, to decide what to remove
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wan_t2v.operate.file_lock import is_still, try_lock
from wan_t2v.serving.errors import AlreadyRunning, KeyOfAnotherRequest
from wan_t2v.serving.resume.checkpoint_file import CheckpointFile, DamagedCheckpoint, GenerationIdentity, SavedState
from wan_t2v.serving.resume.checkpoint_index import CheckpointIndex
from wan_t2v.serving.resume.kept_steps import SUFFIX, checkpoint_path

logger = logging.getLogger(__name__)

FORMER_SUFFIX = ".npz"  # of the format without a digest: never read, removed by age and size like the others
_LOCK = ".lock"


@dataclass(frozen=True)
class Limits:
    """Limits of a folder: checkpoints older than `age_s` go, then the oldest until all fit in `total_bytes`."""

    age_s: float
    total_bytes: int


class Checkpoints:
    """A folder of checkpoints that several processes share. Its file names do not reveal callers or keys.

    Only the constructor lists the folder, so once per process.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._limits = folder, limits
        self._index = CheckpointIndex(folder)
        self._index.rebuild(_list_checkpoints(folder))
        self.clean()

    @contextlib.contextmanager
    def lock(self, key: str, caller: str = "") -> Iterator["Checkpoint"]:
        """Lock the checkpoint of this caller's key. Raises AlreadyRunning if another request holds the lock."""
        path = checkpoint_path(self._folder, key, caller)
        with _hold_lock(path.with_suffix(_LOCK), key):
            yield Checkpoint(path, self)

    def clean(self, now: float | None = None) -> list[Path]:
        """Remove checkpoints beyond the limits, except locked ones. Returns the removed files."""
        now = time.time() if now is None else now
        names = self._index.surplus(older_than=now - self._limits.age_s, total_bytes=self._limits.total_bytes)
        return [path for path in map(self._folder.joinpath, names) if self._remove_unless_locked(path)]

    def record_written(self, path: Path, size_bytes: int) -> None:
        """Record a written checkpoint, and remove old ones to make room for it."""
        self._index.record(path.name, size_bytes, time.time())
        self.clean()

    def remove(self, path: Path) -> None:
        """Remove a checkpoint whose lock the caller holds."""
        path.unlink(missing_ok=True)
        self._index.forget(path.name)

    def _remove_unless_locked(self, path: Path) -> bool:
        """Remove a checkpoint unless it is locked. Returns whether it was removed."""
        with contextlib.suppress(AlreadyRunning, OSError), _hold_lock(path.with_suffix(_LOCK), ""):
            self.remove(path)
            return True
        return False


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one caller and key in `home`; the owner of this object holds its lock."""

    path: Path
    home: Checkpoints

    def read(self, identity: GenerationIdentity) -> SavedState | None:
        """Read the generation's state; None without a checkpoint, or if another build or deployment wrote it.

        A damaged checkpoint is logged and removed, and the generation begins anew. Raises KeyOfAnotherRequest.
        """
        try:
            file = CheckpointFile.from_bytes(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, DamagedCheckpoint) as error:
            logger.warning("the checkpoint %s cannot be read, the generation begins anew: %s", self.path.name, error)
            with contextlib.suppress(OSError):
                self.home.remove(self.path)
            return None
        wanted = identity.as_json()
        if file.belongs_to["fields"] != wanted["fields"]:
            raise KeyOfAnotherRequest(
                "idempotency_key was used for a request with other fields. Send that one again, or take another key."
            )
        return file.saved if file.belongs_to["graphs"] == wanted["graphs"] else None

    def write(self, identity: GenerationIdentity, saved: SavedState) -> None:
        """Write the generation's state, whole or not at all. Raises OSError, such as for a full disk."""
        whole = CheckpointFile(identity.as_json(), saved).to_bytes()
        partial = self.path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(whole)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        self.home.record_written(self.path, len(whole))


@contextlib.contextmanager
def _hold_lock(path: Path, key: str) -> Iterator[None]:
    """Hold the lock file, which exists only meanwhile. Raises AlreadyRunning if another process or thread holds it."""
    while True:
        with path.open("ab") as file:
            if not try_lock(file.fileno()):
                raise AlreadyRunning(
                    f"a request with idempotency_key {key!r} is being worked on; wait for its answer or take another"
                )
            if is_still(path, file.fileno()):  # else it was removed between our opening and our locking it
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # a lock file that stays is free once it is closed
                        path.unlink(missing_ok=True)
                return


def _list_checkpoints(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, bytes and time of each checkpoint, and remove locks and partial files of killed processes."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process removed it meanwhile, or it cannot be removed
            if entry.name.endswith((SUFFIX, FORMER_SUFFIX)):
                status = entry.stat()
                yield entry.name, status.st_size, status.st_mtime
            elif entry.name.endswith((_LOCK, ".partial")):
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(AlreadyRunning), _hold_lock(path.with_suffix(_LOCK), ""):
        if path.suffix != _LOCK:
            path.unlink(missing_ok=True)
