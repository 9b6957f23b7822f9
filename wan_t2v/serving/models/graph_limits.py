"""Limits on the tensor sizes that a graph in the Python backend accepts.

Any caller can call a graph directly through Triton, and the embedded server's graphs have dynamic shapes. A plan needs
no such check, since its profiles limit the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wan_t2v.contract import MODELS
from wan_t2v.facts import ModelFacts
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.models.latent_frames import LATENT_FRAMES_PER_CALL
from wan_t2v.serving.python_backend.parameters import ModelParameters

LARGEST_CLIP = "largest_clip"


@dataclass(frozen=True)
class GraphLimits:
    """Limits on the dynamic dims of a graph's inputs.

    Attributes:
        dims: the contract's dims per input, without the batch axis.
        most: largest size of a dynamic dim, by its name in the contract.
        only: the only size of a dim that the checkpoint fixes, by its name in the contract.
        multiple_of: divisor of a dim's size, if it is more than 1.
    """

    dims: Mapping[str, tuple[int | str, ...]]
    most: Mapping[str, int]
    only: Mapping[str, int] = field(default_factory=dict)
    multiple_of: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_model(cls, parameters: ModelParameters) -> "GraphLimits":
        """Make the limits from the checkpoint's facts, and for graphs that see a clip from `largest_clip`."""
        # Plans have one version per clip size, `prepare` only the first.
        facts = ModelFacts.read(parameters.beside("prepare").with_name("1"))
        only = {"text_length": facts.text_length, "text_dim": facts.text_dim}
        multiple_of = {"latent_height": facts.grid.patch, "latent_width": facts.grid.patch}
        most = dict[str, int]()
        if LARGEST_CLIP in parameters.values:
            clip = parameters.video_shape(LARGEST_CLIP)
            latents = facts.grid.latent_shape(clip)
            most |= {"latent_frames": latents.frames, "latent_height": latents.height, "latent_width": latents.width}
            most |= {"cache_height": clip.height, "cache_width": clip.width}
        if LATENT_FRAMES_PER_CALL in parameters.values:  # memory of a call grows with its frames, and stays
            per_call = parameters.integer(LATENT_FRAMES_PER_CALL, least=1)
            most["latent_frames"] = min(per_call, most.get("latent_frames", per_call))
        dims = {spec.name: spec.dims for spec in MODELS[parameters.model].inputs}
        return cls(dims, most, only, multiple_of)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Check the shapes of arrays, by input name, against the served clips. Raises InvalidField naming the first."""
        for tensor, array in inputs.items():
            sizes = tuple(array.shape)[1:]  # the batch is limited by the config's max_batch_size
            for size, name in zip(sizes, self.dims.get(tensor, ()), strict=False):
                if isinstance(name, str) and (accepted := self._accepted(name, size)):
                    raise InvalidField(tensor, f"shape {list(array.shape)}", f"{name} of {accepted}, as served")

    def _accepted(self, name: str, size: int) -> str:
        """Return the accepted sizes as text if no served clip has this size; else an empty text."""
        if name in self.only:
            return "" if size == self.only[name] else str(self.only[name])
        if size > self.most.get(name, size):
            return f"at most {self.most[name]}"
        step = self.multiple_of.get(name, 1)
        return f"a multiple of {step}" if size % step or size < 1 else ""
