"""State that one server's Python processes share: slots to run and to wait in, marks, and the drain switch.

A slot is a file that its holder keeps locked, so the kernel frees it when the holder dies, however it dies. A mark is
a file for a request that no process holds. Standard library only; needs a local file system.
"""

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wan_t2v.operate.file_lock import lock, try_lock
from wan_t2v.operate.model_control import FILE as CONTROL_FILE

VARIABLE = "WAN_T2V_RUN_DIR"
DEFAULT = Path("/run/wan-t2v")
RUNNING, WAITING, PREPARING = "running", "waiting", "preparing"
IN_TRANSIT, FINISHING = "in_transit", "finishing"
MARKS = (IN_TRANSIT, FINISHING)
REQUEST_LIMITS = "request_limits.json"  # of the models that run now
_PADDED = 512  # bytes per report, so that each overwrites the one before
_MARK = re.compile(r"\d{20}-")
_ENDED = ("Z", "X", "x")  # states of a process that only waits for its parent to read its exit code


class RunDirectoryError(Exception):
    """The directory cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class SlotInfo:
    """Report of a slot's holder.

    Attributes:
        endpoint: the model that holds the slot.
        order: position in the queue, in seconds on the steady clock; lower goes first.
        left_s: estimated seconds of work that were left at `reported_at` on the steady clock; None if unknown.
    """

    endpoint: str
    order: float = 0.0
    left_s: float | None = None
    reported_at: float = 0.0

    def left_at(self, now: float) -> float | None:
        """Estimated seconds of work left at `now`, never negative; None if unknown."""
        return None if self.left_s is None else max(0.0, self.left_s - (now - self.reported_at))


class Slot:
    """A locked file. It is free when `free` is called or its process ends."""

    def __init__(self, descriptor: int, info: SlotInfo) -> None:
        self._descriptor: int | None = descriptor
        self.report(info)

    def report(self, info: SlotInfo) -> None:
        """Replace the slot's report."""
        assert self._descriptor is not None, "the slot was freed"
        self.info = info
        os.pwrite(self._descriptor, json.dumps(asdict(info)).encode().ljust(_PADDED), 0)

    def free(self) -> None:
        """Free the slot; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class RunDirectory:
    """One server's run directory. Use `acquire`, `occupied` and the marks within `exclusive`, for a consistent view."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_server(cls, path: Path, server_pid: int) -> "RunDirectory":
        """Open the directory for a process of this server. A new server's first process clears the last one's state.

        Raises RunDirectoryError if another living server uses it, or it cannot be written to.
        """
        try:
            for folder in (path, *(path / mark for mark in MARKS)):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = cls(path)
            with run.exclusive():
                run._take_over(server_pid)
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {path} cannot be used ({error.strerror}): give one that the server's user can write to "
                f"in the environment variable {VARIABLE} or the model parameter run_directory"
            ) from None
        return run

    def _take_over(self, server_pid: int) -> None:
        ours, last = server_identity(server_pid), self.server()
        if ours is None:
            raise RunDirectoryError(f"run directory {self.path}: there is no process {server_pid} to own it")
        if last == ours:
            return
        if last is not None and server_identity(last["pid"]) == last:
            raise RunDirectoryError(
                f"run directory {self.path} belongs to the running server with pid {last['pid']}: give each server a "
                f"directory of its own in the environment variable {VARIABLE} or the model parameter run_directory"
            )
        if not self._drained_since(ours):
            self.undrain()
        for name in MARKS:
            self.clear(name, older_than_s=0.0)
        self._forget_last_server()
        self.write_json("server.json", ours)

    def _drained_since(self, server: dict[str, Any]) -> bool:
        """Whether the drain began after this server's start, such as that of a pod that is deleted while it loads."""
        try:
            drained_s = time.time() - (self.path / "drain").stat().st_mtime
        except FileNotFoundError:
            return False
        running_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(server["started"]) / os.sysconf("SC_CLK_TCK")
        return 0 <= drained_s < running_s  # negative after the clock was set back: then nothing is known

    def _forget_last_server(self) -> None:
        """Remove the key and every JSON file but the launcher's: measured seconds, process counts, limits."""
        for path in (*self.path.glob("*.json"), *self.path.glob(".*.json.*"), self.path / "key"):
            if path.name != CONTROL_FILE and path.is_file():
                path.unlink(missing_ok=True)

    def server(self) -> dict[str, Any] | None:
        """Return the identity of the server that uses the directory; None if there was none or the file is damaged."""
        identity = self.read_json("server.json") or {}
        known = isinstance(identity.get("pid"), int) and isinstance(identity.get("started"), str)
        return identity if known else None

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the directory against every other process and thread within this context."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def acquire(self, kind: str, info: SlotInfo) -> Slot:
        """Lock the first free slot of a kind; if none is free, make one. Raises OSError, such as for a full disk."""
        for index in itertools.count():
            with contextlib.suppress(IsADirectoryError):  # a folder that is not ours
                if slot := _lock_slot(self.path / f"{kind}-{index}", info):
                    return slot
        raise AssertionError("there is always one more")

    def occupied(self, kind: str) -> list[SlotInfo]:
        """Return the reports of all slots of a kind that are held."""
        infos = []
        for path in sorted(self.path.glob(f"{kind}-[0-9]*")):
            if not path.is_file():
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not try_lock(descriptor):
                    infos.append(_parse_info(os.pread(descriptor, _PADDED, 0)))
            finally:
                os.close(descriptor)
        return infos

    def mark(self, name: str, generation_id: str, info: SlotInfo | None = None) -> None:
        """Set a mark for one generation, with a report or none. `generation_id` has letters and digits only."""
        path = self.path / name / f"{time.monotonic_ns():020d}-{generation_id}"
        if info is None:
            path.touch()
        else:
            _write_whole(path, json.dumps(asdict(info)), mode=0o600)

    def unmark(self, name: str, generation_id: str) -> bool:
        """Remove this generation's mark. Returns whether there was one."""
        for mark in self._marks(name):
            if mark.name.partition("-")[2] == generation_id:
                with contextlib.suppress(FileNotFoundError):
                    mark.unlink()
                    return True
        return False

    def marked(self, name: str) -> dict[str, SlotInfo]:
        """Return the reports of the marks by generation."""
        infos = {}
        for mark in self._marks(name):
            with contextlib.suppress(FileNotFoundError):
                infos[mark.name.partition("-")[2]] = _parse_info(mark.read_bytes())
        return infos

    def clear(self, name: str, *, older_than_s: float) -> int:
        """Remove marks that are older than `older_than_s` seconds. Returns how many are left."""
        left = 0
        for mark in self._marks(name):
            age_s = (time.monotonic_ns() - int(mark.name.partition("-")[0])) / 1e9
            if age_s >= older_than_s or age_s < 0:  # from before the machine's last start
                mark.unlink(missing_ok=True)
            else:
                left += 1
        return left

    def _marks(self, name: str) -> list[Path]:
        folder = self.path / name
        return sorted(path for path in folder.iterdir() if _MARK.match(path.name)) if folder.is_dir() else []

    @property
    def draining(self) -> bool:
        """Whether the server is draining, so takes no new work."""
        return (self.path / "drain").exists()

    def drain(self) -> None:
        """Take no new work from now on."""
        (self.path / "drain").touch()

    def undrain(self) -> None:
        """Take new work again."""
        (self.path / "drain").unlink(missing_ok=True)

    def key(self) -> str:
        """Return the secret that only this server's processes share, and make it on the first call."""
        path = self.path / "key"
        with self.exclusive():
            key = path.read_text(encoding="ascii") if path.exists() else ""
            if not key:
                key = secrets.token_hex(16)
                _write_whole(path, key, mode=0o600)
        return key

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON object from the directory; None if the file is missing, incomplete or not ours."""
        try:
            content = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the directory, whole or not at all."""
        _write_whole(self.path / name, json.dumps(content))


def _lock_slot(path: Path, info: SlotInfo) -> Slot | None:
    """Lock a slot's file and write its report; None if it is held. A failure leaves it free."""
    with contextlib.ExitStack() as unless_locked:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        unless_locked.callback(os.close, descriptor)
        slot = Slot(descriptor, info) if try_lock(descriptor) else None
        if slot is not None:
            unless_locked.pop_all()
        return slot


def _write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file, whole or not at all. The server's user must be able to read what root wrote, such as a probe."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def chosen_path() -> Path:
    """Return the run directory's path from the environment, else the default."""
    return Path(os.environ.get(VARIABLE) or DEFAULT)


def server_identity(pid: int) -> dict[str, Any] | None:
    """Identify a process by its id and its start time, since ids are reused. None if it does not exist or has ended.

    The start time is in the kernel's ticks since the machine's start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on; the name before may hold spaces
    return None if fields[0] in _ENDED else {"pid": pid, "started": fields[19]}


def _parse_info(raw: bytes) -> SlotInfo:
    try:
        info = SlotInfo(**json.loads(raw))
        numbers = (info.order, info.reported_at, info.left_s or 0.0)
        if isinstance(info.endpoint, str) and all(isinstance(number, int | float) for number in numbers):
            return info
    except (ValueError, TypeError):
        pass
    return SlotInfo("unknown", order=math.inf)  # damaged: the slot is held, but goes before no other
