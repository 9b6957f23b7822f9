"""Registry of the five graphs: the component, export form, inputs, outputs and dynamic axes of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.graphs import expert, text_encoder, vae_decoder
from wan_t2v.contract import CACHE_IN, CACHE_OUT, cache_names
from wan_t2v.facts import ModelFacts

FREE = torch.export.Dim.AUTO  # a dynamic axis that the exporter derives from the named ones


@dataclass(frozen=True)
class ExampleCall:
    """One call to trace, in the module's own precision.

    No dynamic axis may have the size 1, which the exporter would treat as a constant.
    """

    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_shapes: tuple[Any, ...]

    def named_axes(self) -> list[str]:
        """Return the names of the dynamic axes, sorted."""
        dims = [dim for shape in self.dynamic_shapes if isinstance(shape, dict) for dim in shape.values()]
        return sorted({dim for dim in dims if isinstance(dim, str)})


@dataclass(frozen=True)
class GraphSpec:
    """Origin of a graph: the checkpoint component, the module's export form, and an example call to trace.

    A tensor's name in the graph is `prefix` followed by its name in the checkpoint.
    """

    component: str
    prefix: str
    module: Callable[[Any], nn.Module]
    example: Callable[[ModelFacts, nn.Module], ExampleCall]


def _text_encoder_call(facts: ModelFacts, module: nn.Module) -> ExampleCall:
    tokens = torch.zeros(2, 12, dtype=torch.int64)
    axes = {0: "batch", 1: "text_length"}
    return ExampleCall(
        (tokens, torch.ones_like(tokens)), text_encoder.INPUTS, text_encoder.OUTPUTS, dynamic_shapes=(axes, axes)
    )


def _expert_call(facts: ModelFacts, module: nn.Module) -> ExampleCall:
    inputs = (
        torch.zeros(2, facts.grid.channels, 3, 8, 12, dtype=_precision_of(module)),
        torch.zeros(2, 1),
        torch.zeros(2, 10, facts.text_dim, dtype=_precision_of(module)),
    )
    axes = (
        {0: "batch", 2: "latent_frames", 3: "latent_height", 4: "latent_width"},
        {0: "batch"},
        {0: "batch", 1: "text_length"},
    )
    return ExampleCall(inputs, expert.INPUTS, expert.OUTPUTS, dynamic_shapes=axes)


def _vae_first_call(facts: ModelFacts, module: nn.Module) -> ExampleCall:
    latents = torch.zeros(2, facts.grid.channels, 2, 6, 8, dtype=_precision_of(module))
    caches = cache_count(module, latents)
    return ExampleCall(
        (latents,),
        ("latents",),
        ("frames", *cache_names(CACHE_OUT, caches)),
        dynamic_shapes=({0: "batch", 2: "latent_frames", 3: "latent_height", 4: "latent_width"},),
    )


def _vae_next_call(facts: ModelFacts, module: nn.Module) -> ExampleCall:
    assert isinstance(module, vae_decoder.VaeDecoderNextGraph)
    latents = torch.zeros(2, facts.grid.channels, 2, 6, 8, dtype=_precision_of(module))
    memory = vae_decoder.FirstMemory()
    with torch.no_grad():
        module.decode(latents[:, :, :1], memory)
    caches = tuple(memory.kept)
    axes = {0: "batch", 2: "latent_frames", 3: "latent_height", 4: "latent_width"}
    return ExampleCall(
        (latents, *caches),
        ("latents", *cache_names(CACHE_IN, len(caches))),
        ("frames", *cache_names(CACHE_OUT, len(caches))),
        dynamic_shapes=(axes, tuple({0: "batch", 3: FREE, 4: FREE} for _ in caches)),
    )


def _precision_of(module: nn.Module) -> torch.dtype:
    """Return the type of most weights: that of the first convolution, which is never kept in FP32."""
    return next(child.weight.dtype for child in module.modules() if isinstance(child, nn.Conv3d))


def cache_count(module: nn.Module, latents: Tensor) -> int:
    """Count the caches of this decoder by running it: 32 for the Wan2.1 VAE."""
    with torch.no_grad():
        return len(module(latents)) - 1


GRAPHS: dict[str, GraphSpec] = {
    "text_encoder": GraphSpec("text_encoder", "text_encoder.", text_encoder.TextEncoderGraph, _text_encoder_call),
    "high_noise_expert": GraphSpec("transformer", "transformer.", expert.ExpertGraph, _expert_call),
    "low_noise_expert": GraphSpec("transformer_2", "transformer.", expert.ExpertGraph, _expert_call),
    "vae_decoder_first": GraphSpec("vae", "", vae_decoder.VaeDecoderFirstGraph, _vae_first_call),
    "vae_decoder_next": GraphSpec("vae", "", vae_decoder.VaeDecoderNextGraph, _vae_next_call),
}
