"""Torch programs: the comparison with the module."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export import to_torch_program
from export.file_hash import sha256
from export.graphs.registry import ExampleCall
from export.parity.graph_parity import ParityError

GRAPH = "high_noise_expert"


class Twice(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return 2.0 * latents


@pytest.mark.parametrize("bad_batch", [1, 2])
def test_a_program_that_gives_nan_at_any_batch_size_is_refused(
    bad_batch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def engine(_: Path) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        return lambda inputs: {"velocity": answer(inputs["latents"])}

    def answer(latents: Tensor) -> Tensor:
        return 2.0 * latents * (torch.nan if len(latents) == bad_batch else 1.0)

    monkeypatch.setattr(to_torch_program, "TorchEngine", engine)
    call = ExampleCall((torch.ones(2, 3),), ("latents",), ("velocity",), ({},))
    with pytest.raises(ParityError, match="high_noise_expert: the program differs from its module by nan"):
        to_torch_program._check(GRAPH, Twice(), call, tmp_path / "model.pt2")


def test_a_damaged_program_is_not_current(tmp_path: Path) -> None:
    program, made_from = tmp_path / "model.pt2", {"graph": GRAPH, "precision": "fp32"}
    program.write_bytes(b"program")
    (tmp_path / "program.json").write_text(json.dumps({**made_from, "program_sha256": sha256(program)}))
    assert to_torch_program._is_current(tmp_path, made_from)
    assert not to_torch_program._is_current(tmp_path, {**made_from, "precision": "bf16"})
    program.write_bytes(b"damaged")
    assert not to_torch_program._is_current(tmp_path, made_from)
