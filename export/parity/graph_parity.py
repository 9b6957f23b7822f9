"""Graph parity: each ONNX graph against diffusers' own module, in ONNX Runtime on the CPU.

The reference is the unmodified diffusers or transformers module in FP32 and not the module rewritten for export, so
that faults in the rewriting are found. ONNX Runtime has no BF16 kernels on a CPU: BF16 graphs are not compared here.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.checkpoint.folder import Checkpoint
from export.errors import ExpectedError
from export.graphs.precision import PART_OF, io_precision, is_int8
from export.graphs.registry import GRAPHS
from export.manifest import onnx_file
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted `max |graph - reference| / max |reference|`, and the reason for it."""

    relative: float
    reason: str


TOLERANCES = {
    "text_encoder": Tolerance(
        1e-4,
        "UMT5 does not scale its attention logits, so trained weights amplify rounding: 1.8e-5 for training/wan-mini",
    ),
    "high_noise_expert": Tolerance(1e-5, "fp32 sums in another order; a wrong ulp in the timestep table costs 4e-6"),
    "low_noise_expert": Tolerance(1e-5, "as the high-noise expert"),
    "vae_decoder_first": Tolerance(1e-5, "fp32 convolutions in another order, through about thirty layers"),
    "vae_decoder_next": Tolerance(1e-5, "as the first graph, and its caches come from that graph: errors add up"),
}
FP16_TOLERANCES = {
    "experts": Tolerance(3e-3, "eleven bits of fraction, sums of thousands of products; FP32 islands as in diffusers"),
    "vae": Tolerance(1e-2, "eleven bits of fraction through about thirty convolutions"),
}

FP8_TOLERANCE = Tolerance(0.2, "four bits of fraction in the inputs and weights of linear layers; scores are the judge")
INT8_TOLERANCE = Tolerance(
    0.1, "eight bits in the inputs of linear layers, seven in their weights; scores are the judge"
)


@dataclass(frozen=True)
class Comparison:
    """Differences at one input shape. `relative` is `max_absolute` over the reference's largest value."""

    shape: str
    max_absolute: float
    relative: float


class ParityError(ExpectedError):
    """A graph differs from its reference by more than its tolerance."""


def tolerance(graph: str, precision: str) -> Tolerance | None:
    """Return the tolerance of a graph in a precision. None if ONNX Runtime cannot run that on a CPU."""
    if precision == "fp32":
        return TOLERANCES[graph]
    if precision == "fp16":
        return FP16_TOLERANCES[PART_OF[graph]]
    if io_precision(precision) != "fp32":
        return None
    return INT8_TOLERANCE if is_int8(precision) else FP8_TOLERANCE


def parity_of(
    graph: str,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    precision: str = "fp32",
    files: Mapping[str, Path] | None = None,
) -> list[Comparison]:
    """Compare a graph with the checkpoint's module at three input shapes.

    The graph is read from the export's `folder`, or from `files`, which has ONNX files by graph.

    Raises ParityError, with the figures, if a comparison exceeds the tolerance.
    """
    accepted = tolerance(graph, precision)
    if accepted is None:
        raise ParityError(f"{graph} is in {precision}, which ONNX Runtime cannot run on a CPU: nothing to compare")
    facts = checkpoint.facts
    reference = checkpoint.module(GRAPHS[graph].component)
    paths = {name: files[name] if files else onnx_file(folder / name) for name in _needed(graph)}
    engines = {name: _Engine(OnnxRuntimeEngine(path), precision) for name, path in paths.items()}
    with torch.inference_mode():
        comparisons = [
            compare(shape, actual, expected) for shape, actual, expected in _CASES[graph](reference, engines, facts)
        ]
    worst = max(comparisons, key=lambda comparison: (math.isnan(comparison.relative), comparison.relative))
    if not worst.relative <= accepted.relative:  # `not <=` is true for NaN
        raise ParityError(
            f"{graph}: relative error {worst.relative:.1e} at {worst.shape}, accepted up to {accepted.relative:.0e} "
            f"({accepted.reason})"
        )
    return comparisons


def compare(shape: str, actual: NDArray[Any], expected: NDArray[Any]) -> Comparison:
    """Compute the largest difference, absolute and relative to the reference's largest value.

    Raises ParityError for different shapes.
    """
    if actual.shape != expected.shape:
        raise ParityError(f"{shape}: the graph gives {actual.shape}, the reference {expected.shape}")
    difference = float(np.abs(actual - expected).max())
    return Comparison(shape, difference, difference / float(np.abs(expected).max()))


def largest_error(errors: Iterable[float]) -> float:
    """Return the largest error. NaN if any is NaN, since `max` drops a NaN that is not the first."""
    values = list(errors)
    return math.nan if any(map(math.isnan, values)) else max(values)


class _Engine:
    """Engine with FP32 arrays in and out for a graph of any type. The timestep is FP32 in every graph."""

    def __init__(self, engine: OnnxRuntimeEngine, precision: str) -> None:
        self._engine, self._half = engine, precision == "fp16"

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = {name: self._as_graph_type(name, array) for name, array in inputs.items()}
        return {name: array.astype(np.float32, copy=False) for name, array in self._engine(given).items()}

    def _as_graph_type(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        to_half = self._half and name != "timestep" and array.dtype == np.float32
        return array.astype(np.float16) if to_half else array


_Engines = Mapping[str, _Engine]
_Case = tuple[str, NDArray[Any], NDArray[Any]]


def _needed(graph: str) -> Sequence[str]:
    """Return the graphs to run. The second VAE graph needs the first one's caches as inputs."""
    return ("vae_decoder_first", graph) if graph == "vae_decoder_next" else (graph,)


def _text_encoder_cases(reference: Any, engines: _Engines, facts: ModelFacts) -> list[_Case]:
    cases = []
    for batch, length, padding in ((1, facts.text_length, facts.text_length // 2), (2, 16, 5), (3, 7, 0)):
        ids = torch.randint(3, 200, (batch, length), generator=_seeded(length))
        mask = torch.ones_like(ids)
        mask[:, length - padding :] = 0
        expected = reference(ids, mask).last_hidden_state * mask[..., None]
        actual = engines["text_encoder"]({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        cases.append((f"batch {batch}, {length} tokens", actual["text_embeddings"], expected.numpy()))
    return cases


def _expert_cases(graph: str) -> Callable[[Any, _Engines, ModelFacts], list[_Case]]:
    def cases(reference: Any, engines: _Engines, facts: ModelFacts) -> list[_Case]:
        compared = []
        for batch, frames, height, width, timestep in ((1, 5, 16, 16, 999), (2, 3, 8, 12, 875), (1, 1, 20, 6, 14)):
            latents = torch.randn(batch, facts.grid.channels, frames, height, width, generator=_seeded(width))
            text = torch.randn(batch, facts.text_length, facts.text_dim, generator=_seeded(height))
            times = torch.full((batch, 1), float(timestep))
            expected = reference(latents, times[:, 0], text, return_dict=False)[0]
            inputs = {"hidden_states": latents, "timestep": times, "encoder_hidden_states": text}
            actual = engines[graph]({name: value.numpy() for name, value in inputs.items()})
            shape = f"batch {batch}, latents {frames}x{height}x{width}, timestep {timestep}"
            compared.append((shape, actual["velocity"], expected.numpy()))
        return compared

    return cases


_VAE_LATENTS = ((1, 5, 16, 16), (2, 4, 6, 10), (1, 3, 12, 4))  # batch, frames, height, width


def _vae_first_cases(reference: Any, engines: _Engines, facts: ModelFacts) -> list[_Case]:
    """Decode first frames alone, as plans do, and whole clips."""
    cases = []
    for batch, frames, height, width in ((1, 1, 16, 16), (2, 1, 6, 10), *_VAE_LATENTS):
        latents = _vae_latents(facts, batch, frames, height, width)
        expected = reference.decode(latents, return_dict=False)[0].numpy()
        actual = engines["vae_decoder_first"]({"latents": latents.numpy()})["frames"]
        cases.append((f"batch {batch}, latents {frames}x{height}x{width}", actual, expected))
    return cases


def _vae_next_cases(reference: Any, engines: _Engines, facts: ModelFacts) -> list[_Case]:
    """Decode whole clips: one or two frames with the first graph, then chunks of one and two frames alternately."""
    cases = []
    for (batch, frames, height, width), first in zip(_VAE_LATENTS, (1, 2, 2), strict=True):
        latents = _vae_latents(facts, batch, frames, height, width)
        expected = reference.decode(latents, return_dict=False)[0].numpy()
        state = engines["vae_decoder_first"]({"latents": latents[:, :, :first].numpy()})
        parts, start, chunk = [state.pop("frames")], first, 1
        while start < frames:
            caches = {name.replace("out", "in"): value for name, value in state.items()}
            piece = latents[:, :, start : start + chunk].numpy()
            state = engines["vae_decoder_next"]({"latents": piece, **caches})
            parts.append(state.pop("frames"))
            start, chunk = start + chunk, 3 - chunk
        shape = f"batch {batch}, latents {frames}x{height}x{width}, in chunks"
        cases.append((shape, np.concatenate(parts, axis=2), expected))
    return cases


def _vae_latents(facts: ModelFacts, batch: int, frames: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, facts.grid.channels, frames, height, width, generator=_seeded(height))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


_CASES: dict[str, Callable[[Any, _Engines, ModelFacts], list[_Case]]] = {
    "text_encoder": _text_encoder_cases,
    "high_noise_expert": _expert_cases("high_noise_expert"),
    "low_noise_expert": _expert_cases("low_noise_expert"),
    "vae_decoder_first": _vae_first_cases,
    "vae_decoder_next": _vae_next_cases,
}
