"""Matrix products, attention and experts in torch, rehearsed on the CPU."""

import pytest
import torch

from benchmarks.gpu import torch_parts
from benchmarks.gpu.scale import A14B, Scale, full_scale
from benchmarks.gpu.timing import Skipped
from wan_t2v.shapes import VideoShape


def test_parameters_of_a_block_decide_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = full_scale()
    assert 2 * A14B.block_parameters == pytest.approx(0.7e9, rel=0.01)
    for free, blocks in ((80, 8), (12, 3)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * 10**9, 80 * 10**9))
        assert torch_parts.blocks_that_fit(scale, VideoShape(81, 480, 832)) == blocks
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 80 * 10**9))
    with pytest.raises(Skipped, match="do not hold two blocks at 720x1280x81"):
        torch_parts.blocks_that_fit(scale, VideoShape(81, 720, 1280))


def test_all_layers_follow_from_two_counts_by_a_line(scale: Scale) -> None:
    row = torch_parts.extrapolate(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 + 0.5 * blocks)
    assert row["seconds"] == 1.0 + 0.5 * 40
    assert (row["blocks_measured"], row["seconds_measured"], row["layers"]) == ([2, 8], [2.0, 5.0], 40)


def test_a_line_through_noise_is_no_figure(scale: Scale) -> None:
    row = torch_parts.extrapolate(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 / blocks)
    assert "seconds" not in row and row["seconds_measured"] == [0.5, 0.125] and "not_extrapolated" in row


@pytest.mark.parametrize("part", ["matrix_rate", "attention", "expert_eager"])
def test_torchs_parts_measure(part: str, scale: Scale) -> None:
    rows = list(getattr(torch_parts, part)(scale))
    measured = [row for row in rows if "error" not in row]
    assert measured == (rows if part != "attention" else rows[:1]), "a CPU has one of the attention kernels"
    assert all("seconds" in row or "not_extrapolated" in row for row in measured)


def test_the_compiled_expert_is_compiled_a_block_at_a_time(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic: compiled.append(self))
    (row,) = torch_parts.expert_compiled(scale)
    assert row["mode"] == "compiled" and len(row["seconds_measured"]) == 2
    assert len(compiled) == 2


def test_the_measured_expert_has_diffusers_fp32_islands(scale: Scale) -> None:
    module = torch_parts.expert_module(scale, 1, "cpu")
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    assert dtypes["blocks.0.ffn.net.0.proj.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == dtypes["scale_shift_table"] == torch.float32
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
