"""The largest tensors that a graph in the Python backend takes.

Triton lets every caller call a graph directly, and the graphs have dynamic shapes on the embedded server. A plan needs
no such check: its profiles have the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v.contract import MODELS
from wan_t2v.facts import ModelFacts
from wan_t2v.request import RequestError
from wan_t2v.serving.parameters import ModelParameters

LARGEST_CLIP = "largest_clip"


@dataclass(frozen=True)
class GraphLimits:
    """Limits on the free dims of a graph's inputs.

    Attributes:
        dims: for each input the contract's dims, the batch axis left out.
        most: the largest size of a free dim, by its name in the contract.
    """

    dims: Mapping[str, tuple[int | str, ...]]
    most: Mapping[str, int]

    @classmethod
    def of_model(cls, parameters: ModelParameters) -> "GraphLimits":
        """From the checkpoint's facts, and the parameter `largest_clip` for graphs that see a clip."""
        home = parameters.version_folder.parent.parent
        facts = ModelFacts.read(home / "prepare" / "1")
        most = {"text_length": facts.text_length, "text_dim": facts.text_dim}
        if LARGEST_CLIP in parameters.values:
            clip = parameters.video_shape(LARGEST_CLIP)
            latents = facts.grid.latent_shape(clip)
            most |= {"latent_frames": latents.frames, "latent_height": latents.height, "latent_width": latents.width}
            most |= {"cache_height": clip.height, "cache_width": clip.width}
        return cls({spec.name: spec.dims for spec in MODELS[parameters.model].inputs}, most)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Refuse arrays, by input name, that no served clip leads to. Raises RequestError naming the first."""
        for tensor, array in inputs.items():
            sizes = tuple(array.shape)[1:]  # the batch is limited by the config's max_batch_size
            for size, name in zip(sizes, self.dims.get(tensor, ()), strict=False):
                if isinstance(name, str) and size > self.most.get(name, size):
                    accepted = f"{name} of at most {self.most[name]}, as served"
                    raise RequestError(tensor, f"shape {list(array.shape)}", accepted)
