"""The checkpoint of random weights: the same numbers everywhere, and only the samples until it is completed."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu.random_checkpoint import complete, configs_of, write_random_checkpoint
from benchmarks.gpu.scale import Scale, full_scale
from export.checkpoint.folder import Checkpoint
from export.checkpoint.weights.safetensors_index import content_sample_sha256
from export.to_onnx.a14b_dummy import A14B_CONFIGS


@pytest.fixture
def checkpoint(scale: Scale, tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "checkpoint", scale)


def test_at_full_scale_it_is_a14b() -> None:
    assert configs_of(full_scale()) == A14B_CONFIGS


def test_completing_it_changes_no_hash_of_samples(checkpoint: Path) -> None:
    """Programs that were traced before are current on the machine with all of the weights."""
    before = {name: content_sample_sha256(checkpoint, name) for name in ("transformer", "transformer_2", "vae")}
    complete(checkpoint)
    assert before == {name: content_sample_sha256(checkpoint, name) for name in before}


def test_values_are_whole_finite_and_of_the_size_that_keeps_activations(checkpoint: Path) -> None:
    complete(checkpoint)
    opened = Checkpoint.open(checkpoint)
    opened.check()
    for component in ("transformer", "text_encoder", "vae"):
        for name, weights in opened.module(component).state_dict().items():
            assert weights.isfinite().all() and weights.any(), name
            if weights.numel() > 2000 and weights.dim() > 1 and "table" not in name and "conv_out" not in name:
                gain = weights.float().std() * weights[0].numel() ** 0.5
                assert gain == pytest.approx(1, rel=0.1), name


def test_both_experts_have_the_same_weights_and_no_row_of_a_matrix_is_another(checkpoint: Path) -> None:
    complete(checkpoint)
    opened = Checkpoint.open(checkpoint)
    high, low = (opened.module(component).state_dict() for component in ("transformer", "transformer_2"))
    assert all(torch.equal(high[name], low[name]) for name in high)
    weights = high["blocks.0.ffn.net.0.proj.weight"]
    assert len(weights.unique(dim=0)) == len(weights)
