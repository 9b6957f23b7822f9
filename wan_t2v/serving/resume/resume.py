"""Resumption of generations after a crash.

A request with an `idempotency_key` can be resumed if a checkpoint folder is configured. The same key again gives the
same video, from the last checkpoint. A finished generation's checkpoint has its clean latents, until it is removed.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from wan_t2v.denoise import Step
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.request import Settings
from wan_t2v.schedule import Schedule
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.resume.checkpoint_file import GenerationIdentity, SavedState
from wan_t2v.serving.resume.checkpoint_store import Checkpoint, Checkpoints, Limits
from wan_t2v.serving.resume.idempotency import RequestKey
from wan_t2v.serving.resume.kept_steps import key_without_folder, publish_folder, read_steps_done
from wan_t2v.step_profiles.step_reuse import StepReuse

logger = logging.getLogger(__name__)

EVERY, AGE_S, TOTAL_GIB = 5, 24 * 3600, 10  # steps; a checkpoint of A14B at 720p has about 0.1 GiB
_GIB = 2**30
VARIABLE = "WAN_T2V_CHECKPOINT_DIR"


def _folder_of_environment() -> Path | None:
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


class ResumableGenerations:
    """The checkpoint folder of a server, or none."""

    def __init__(self, folder: Path | None, limits: Limits, every: int) -> None:
        self._folder = folder
        self._checkpoints = None if folder is None else Checkpoints(folder, limits)
        self._every = every

    @classmethod
    def of_model(cls, parameters: ModelParameters) -> "ResumableGenerations":
        """Read the model's parameters. Raises ParameterError.

        `checkpoint_folder` defaults to the environment's WAN_T2V_CHECKPOINT_DIR; without either, nothing is kept. The
        others are `checkpoint_every` (steps), `checkpoint_age_s` and `checkpoint_total_gib`.
        """
        folder = parameters.optional_path("checkpoint_folder") or _folder_of_environment()
        if folder is None:
            return cls(None, Limits(0.0, 0), every=1)
        age_s = parameters.integer("checkpoint_age_s", least=1, default=AGE_S)
        total_gib = parameters.integer("checkpoint_total_gib", least=1, default=TOTAL_GIB)
        every = parameters.integer("checkpoint_every", least=1, default=EVERY)
        return cls(folder, Limits(age_s, total_gib * _GIB), every=every)

    @contextlib.contextmanager
    def lock(self, key: RequestKey | None) -> Iterator["CheckpointWriter | None"]:
        """Lock the checkpoint of a request's key; yields None for a request without a key.

        A folder that cannot be written is logged and yields None too: it costs the checkpoint and not the video.
        Raises InvalidField if this server keeps no checkpoints, AlreadyRunning if the key is in use.
        """
        if key is None:
            yield None
        elif self._checkpoints is None:
            raise key_without_folder(key)
        else:
            with contextlib.ExitStack() as held:
                yield self._lock_if_possible(self._checkpoints, key, held)

    def _lock_if_possible(
        self, checkpoints: Checkpoints, key: RequestKey, held: contextlib.ExitStack
    ) -> "CheckpointWriter | None":
        try:
            checkpoint = held.enter_context(checkpoints.lock(key.key, key.caller))
        except OSError as error:
            logger.warning("a request with an idempotency key keeps no checkpoint: %s", error)
            return None
        return CheckpointWriter(checkpoint, self._every)

    def publish(self, run: RunDirectory) -> None:
        """Publish the folder to `prepare`, which admits the unary endpoint's requests."""
        publish_folder(run, self._folder)


@dataclass(frozen=True)
class CheckpointWriter:
    """One request's checkpoint, written every `every` steps and after the last."""

    checkpoint: Checkpoint
    every: int

    @property
    def steps_done(self) -> int:
        """Steps that the checkpoint has, unchecked, for an estimate."""
        return read_steps_done(self.checkpoint.path)

    def saved_state(self, identity: GenerationIdentity) -> SavedState | None:
        """Read the generation's last state; None without a checkpoint. Raises KeyOfAnotherRequest."""
        return self.checkpoint.read(identity)

    def save_after(self, step: Step, identity: GenerationIdentity, *, schedule: Schedule, reuse: StepReuse) -> None:
        """Write a checkpoint if this step is due. A failed write is only logged, and the generation goes on."""
        if step.index % self.every and step.index < step.count:
            return
        try:
            self.checkpoint.write(identity, SavedState(step.index, step.latents, schedule.state(), reuse.state()))
        except OSError as error:
            logger.warning("no checkpoint after step %d of %d: %s", step.index, step.count, error)


def identify_generation(
    settings: Settings, tensors: Mapping[str, Tensor], graphs: Mapping[str, str], *, given: Collection[str]
) -> GenerationIdentity:
    """Identify a generation by all that decides its latents: settings, input tensors, and builds of the experts.

    `given` names the tensors that came with the request. What the deployment makes of the other fields counts as a
    build: embeddings and drawn noise, and its definitions of a step profile and of sigmas. So if one changes, a
    repeated request is still the same request, and the generation begins anew.
    """
    hashes = {name: _sha256(tensor) for name, tensor in tensors.items()}
    fields = {**asdict(settings), **{name: digest for name, digest in hashes.items() if name in given}}
    deployed = {name: digest for name, digest in hashes.items() if name not in given}
    deployed |= {"sigmas": fields.pop("sigmas"), "profile": fields.pop("profile")}
    return GenerationIdentity(fields, {**graphs, "deployed": json.dumps(deployed)})


def _sha256(tensor: Tensor) -> str:
    """Hash a tensor's bytes; viewed as uint8, since numpy has no BF16."""
    return hashlib.sha256(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
