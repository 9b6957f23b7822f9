"""A generation's checkpoint as bytes: a digest over the content, then the arrays.

<format line> \\n <SHA-256 of the rest, in hex> \\n <npz with latents, solver state, and what they belong to>

The zip format inside has its own checksums, but they do not cover names and directory: four flipped bits removed a
tensor without an error. So nothing is read before the digest matches.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wan_t2v.serving.resume.kept_steps import BELONGS_TO

FORMAT = b"wan-t2v checkpoint 5"
_STATE, _REUSE = "state.", "reuse."


class DamagedCheckpoint(Exception):
    """The bytes are not a whole checkpoint of this format; the message says what is wrong with them."""


@dataclass(frozen=True)
class GenerationIdentity:
    """Identity of a generation, to resume it by. Only equal `fields` and equal `graphs` together give the same bytes.

    `fields` is what the caller chose: the request with its defaults, the seed and the starting noise that it gave.
    `graphs` is what the deployment adds: the builds of the experts, the embeddings, the definitions of profiles.
    """

    fields: Mapping[str, Any]
    graphs: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the identity in the form in which a file returns it."""
        content: dict[str, Any] = json.loads(json.dumps({"fields": dict(self.fields), "graphs": dict(self.graphs)}))
        return content


@dataclass(frozen=True)
class SavedState:
    """State of a generation: `latents` after `steps_done` steps, and the state of solver and reuse."""

    steps_done: int
    latents: Tensor
    solver: Mapping[str, Tensor]
    reuse: Mapping[str, Tensor]


@dataclass(frozen=True)
class CheckpointFile:
    """Content of a file: a state, and the generation that it belongs to in the form of
    `GenerationIdentity.as_json`.
    """

    belongs_to: Mapping[str, Any]
    saved: SavedState

    def to_bytes(self) -> bytes:
        """Serialise the whole file."""
        belonging = json.dumps({**self.belongs_to, "steps_done": self.saved.steps_done}).encode()
        solver, reuse = _named(_STATE, self.saved.solver), _named(_REUSE, self.saved.reuse)
        arrays = {BELONGS_TO: np.frombuffer(belonging, np.uint8), "latents": self.saved.latents.cpu().numpy()}
        written = io.BytesIO()
        np.savez(written, **arrays, **solver, **reuse)
        content = written.getvalue()
        return b"\n".join((FORMAT, _digest(content), content))

    @classmethod
    def from_bytes(cls, whole: bytes) -> "CheckpointFile":
        """Read what `to_bytes` wrote. Raises DamagedCheckpoint for anything else."""
        head = whole[: len(FORMAT) + 66]
        if head.count(b"\n") < 2 or head.split(b"\n")[0] != FORMAT:
            raise DamagedCheckpoint("not of this version's format")
        content = whole[len(head) :]
        if head.split(b"\n")[1] != _digest(content):
            raise DamagedCheckpoint("the digest does not fit: a bit is wrong, or the end is missing")
        try:
            return cls._from_content(content)
        except Exception as error:  # the digest matches, so another version wrote the content
            raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error

    @classmethod
    def _from_content(cls, content: bytes) -> "CheckpointFile":
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        belonging = json.loads(bytes(arrays.pop(BELONGS_TO)))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        solver, reuse = _within(_STATE, tensors), _within(_REUSE, tensors)
        belongs_to = {"fields": belonging["fields"], "graphs": belonging["graphs"]}
        return cls(belongs_to, SavedState(belonging["steps_done"], tensors["latents"], solver, reuse))


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor.cpu().numpy() for name, tensor in tensors.items()}


def _within(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
