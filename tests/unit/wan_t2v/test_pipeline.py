"""Graphs of different types in one pipeline: the server's bytes are compared with those of FP32 elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export.graphs.precision import Precisions
from tests.fakes.programs import install_programs
from tests.unit.wan_t2v.serving.models.decoders import SETTINGS
from wan_t2v.contract import VAE_DECODERS
from wan_t2v.engines.torch_program import TorchEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.pipeline import Engines, mp4_from_settings
from wan_t2v.tokens import PromptTokenizer


@pytest.mark.parametrize("expert_type", [None, torch.float16])
def test_each_graph_gets_its_own_type(
    expert_type: torch.dtype | None, repository: Path, checkpoint: Path, root: Path
) -> None:
    facts = ModelFacts.read(repository / "prepare/1")
    folder = install_programs(
        checkpoint, root / "build/test-programs-bf16", VAE_DECODERS, precisions=Precisions(vae="bf16")
    )
    decoders = {name: TorchEngine(folder / name / "1/model.pt2", threads=1) for name in VAE_DECODERS}
    seen: list[dict[str, torch.dtype]] = []

    def text_encoder(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        return {"text_embeddings": torch.zeros(1, facts.text_length, facts.text_dim, dtype=torch.bfloat16)}

    def expert(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        seen.append({name: tensor.dtype for name, tensor in inputs.items()})
        return {"velocity": torch.zeros_like(inputs["hidden_states"])}

    video = mp4_from_settings(
        replace(SETTINGS, num_frames=5),
        facts,
        tokenizer=PromptTokenizer(repository / "prepare/1", text_length=facts.text_length),
        engines=Engines(text_encoder, expert, expert, **decoders),
        expert_type=expert_type,
        vae_type=torch.bfloat16,
    )
    half = expert_type or torch.bfloat16
    types = {"hidden_states": half, "timestep": torch.float32, "encoder_hidden_states": half}
    assert seen and all(call == types for call in seen)
    assert video[4:8] == b"ftyp"
