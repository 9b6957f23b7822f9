"""Generations under way, kept on disk: after a crash, a drain or a kill the same request goes on where it was.

<folder>/<hash of caller and key>.npz     latents, solver state, step, and what they belong to
<folder>/<hash of caller and key>.lock    held by the process that works on it; freed by the kernel when it dies
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from wan_t2v.serving.keys import AlreadyRunning, KeyOfAnotherRequest

_BELONGS_TO = "belongs_to"
_STATE = "state."


@dataclass(frozen=True)
class Generation:
    """What a checkpoint is of: `fields` is the request with all defaults and the seed, `graphs` the identity of each
    expert's build. Only both together give the same bytes.
    """

    fields: Mapping[str, Any]
    graphs: Mapping[str, str]


@dataclass(frozen=True)
class Kept:
    """Where a generation was: `latents` after `steps_done` steps, and what the solver remembered."""

    steps_done: int
    latents: Tensor
    solver: Mapping[str, Tensor]


@dataclass(frozen=True)
class Limits:
    """Checkpoints older than `age_s` are removed, and then the oldest until all together have `total_bytes` at most."""

    age_s: float
    total_bytes: int


class Checkpoints:
    """A folder of checkpoints that several processes share. Its file names tell nothing of callers and keys."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._limits = folder, limits

    @contextlib.contextmanager
    def held(self, key: str, caller: str = "") -> Iterator["Checkpoint"]:
        """Work alone on what this caller asked for with this key. Raises AlreadyRunning if another does."""
        name = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
        with _locked(self._folder / f"{name}.lock", key):
            self.clean()
            yield Checkpoint(self._folder / f"{name}.npz")

    def clean(self, now: float | None = None) -> list[Path]:
        """Remove what is too old or too much, never what is worked on; returns what was removed."""
        now = time.time() if now is None else now
        kept = sorted(self._folder.glob("*.npz"), key=_written, reverse=True)
        removed, total = [], 0
        for path in kept:
            total += path.stat().st_size
            if (now - _written(path) > self._limits.age_s or total > self._limits.total_bytes) and _removed(path):
                removed.append(path)
        return removed


@dataclass(frozen=True)
class Checkpoint:
    """One caller's and key's file; whoever has this holds its lock."""

    path: Path

    def read(self, generation: Generation) -> Kept | None:
        """Where the generation was; None if nothing was kept, or by other builds of the experts.

        Raises KeyOfAnotherRequest.
        """
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            belongs_to = json.loads(bytes(arrays.pop(_BELONGS_TO)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or not whole after a disk fault
            return None
        if belongs_to["fields"] != _as_json(generation.fields):
            raise KeyOfAnotherRequest(
                "idempotency_key was used for a request with other fields. Send that one again, or take another key."
            )
        if belongs_to["graphs"] != dict(generation.graphs):
            return None
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        solver = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name.startswith(_STATE)}
        return Kept(belongs_to["steps_done"], tensors["latents"], solver)

    def write(self, generation: Generation, kept: Kept) -> None:
        """Keep where the generation is, whole or not at all. Raises OSError, such as for a full disk."""
        belongs_to = {
            "fields": _as_json(generation.fields),
            "graphs": dict(generation.graphs),
            "steps_done": kept.steps_done,
        }
        arrays = {"latents": kept.latents, **{f"{_STATE}{name}": tensor for name, tensor in kept.solver.items()}}
        partial = self.path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                text = np.frombuffer(json.dumps(belongs_to).encode(), np.uint8)
                np.savez(file, **{_BELONGS_TO: text}, **{name: t.cpu().numpy() for name, t in arrays.items()})
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path, key: str) -> Iterator[None]:
    """Hold the lock file. Raises AlreadyRunning if another process or thread does."""
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"a request with idempotency_key {key!r} is being worked on; wait for its answer or take another"
                ) from None
            if _is_still(path, file):  # else it was removed between our opening and our locking it
                yield
                return


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process removed it
        return 0.0


def _removed(path: Path) -> bool:
    """Remove a checkpoint that nobody works on."""
    lock = path.with_suffix(".lock")
    with contextlib.suppress(AlreadyRunning), _locked(lock, ""):
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        return True
    return False


def _as_json(fields: Mapping[str, Any]) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(dict(fields)))
