"""The VAE in each arithmetic, rehearsed on the CPU."""

from typing import Any

import pytest
import torch

from benchmarks.gpu import vae_part
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Row


def test_the_vae_is_measured_in_each_arithmetic_against_fp32(scale: Scale) -> None:
    rows = list(vae_part.vae(scale))
    assert [row["precision"] for row in rows] == ["fp32", "tf32", "bf16"]
    assert all(row["seconds"] > 0 and row["caches_gib"] > 0 for row in rows)
    assert rows[0]["largest_difference"] == 0
    assert 0 < rows[2]["relative_difference"] < 0.1, "BF16 rounds, and computes the same"


def test_tf32_is_set_for_its_rows_alone(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def measured(*arguments: Any) -> Row:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return {}

    monkeypatch.setattr(vae_part, "_measure", measured)
    before = torch.backends.cudnn.allow_tf32
    list(vae_part.vae(scale))
    assert seen == [(False, False), (True, True), (False, False)]
    assert torch.backends.cudnn.allow_tf32 == before
