"""Checks of an engine that hold on any device: run on the CPU by tests/unit/wan_t2v/engines, on a GPU by tests/gpu."""

from pathlib import Path

import numpy as np
import torch

from export.parity.graph_parity import TOLERANCES
from wan_t2v.engines.engine import Array, Engine
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.frames import decode_frames


def numbers(array: Array) -> np.ndarray:
    """As numpy in float32, from any device and precision."""
    return torch.as_tensor(array).detach().float().cpu().numpy()


def relative(actual: Array, expected: Array) -> float:
    """Largest difference by the largest expected value."""
    a, b = numbers(actual), numbers(expected)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def example_inputs(graph: str, facts: ModelFacts, *, batch: int, size: int) -> dict[str, torch.Tensor]:
    """Inputs of a graph that needs no caches; `size` is latent height, and the tokens of a prompt."""
    if graph == "text_encoder":
        ids = torch.randint(3, 200, (batch, size), generator=torch.Generator().manual_seed(size))
        mask = torch.ones_like(ids)
        mask[:, size - size // 3 :] = 0
        return {"input_ids": ids, "attention_mask": mask}
    channels = facts.grid.channels
    if graph == "vae_decoder_first":
        return {"latents": seeded(batch, channels, batch, size, 4)}  # one frame, as in plans, and more
    return {
        "hidden_states": seeded(batch, channels, 3, size, 4),
        "timestep": torch.full((batch, 1), 875.0),
        "encoder_hidden_states": seeded(batch, facts.text_length, facts.text_dim),
    }


def check_agrees(graph: str, engine: Engine, repository: Path, *, tolerance: float = 0.0) -> None:
    """Every output, at three shapes, against ONNX Runtime on the installed graph, within the tolerance of parity."""
    facts = ModelFacts.read(repository / "vae_decoder/1")
    reference = OnnxRuntimeEngine(repository / graph / "1/model.onnx", threads=1)
    for batch, size in ((1, 16), (2, 6), (1, 2)):
        inputs = example_inputs(graph, facts, batch=batch, size=size)
        expected, actual = reference(inputs), engine(inputs)
        assert list(actual) == list(expected)
        for name, array in expected.items():
            if array.any():
                assert relative(actual[name], array) <= (tolerance or TOLERANCES[graph].relative), name
            else:
                assert not numbers(actual[name]).any(), f"{name} starts as zeros"


def check_decodes(first: Engine, later: Engine, repository: Path, *, differing: float = 1e-3) -> None:
    """Whole clips through both VAE graphs: of the bytes at most a share of `differing` is another, and by one."""
    facts = ModelFacts.read(repository / "vae_decoder/1")
    reference = [
        OnnxRuntimeEngine(repository / name / "1/model.onnx", threads=1)
        for name in ("vae_decoder_first", "vae_decoder_next")
    ]
    for height, width, per_call in ((16, 8, 1), (6, 10, 2), (4, 6, 3)):
        latents = seeded(1, facts.grid.channels, 4, height, width)
        actual, expected = (
            torch.cat([piece.cpu() for piece in decode_frames(latents, *pair, latent_frames_per_call=per_call)]).int()
            for pair in ((first, later), reference)
        )
        difference = (actual - expected).abs()
        assert int(difference.max()) <= 1 and float((difference > 0).float().mean()) <= differing
