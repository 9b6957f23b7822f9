"""An expert's operations at each size, and the dimensions that they follow from."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import torch_parts
from benchmarks.gpu.scale import A14B, GRID, SMALL, Scale, expert_flops
from wan_t2v.shapes import VideoShape

# height, width, frames: tokens, PFLOP a forward pass, share of self-attention, as counted for the published model
TABLE = {
    (256, 256, 17): (1_280, 0.035, 0.04),
    (480, 832, 17): (7_800, 0.242, 0.21),
    (480, 832, 33): (14_040, 0.505, 0.32),
    (480, 832, 49): (20_280, 0.832, 0.40),
    (480, 832, 81): (32_760, 1.678, 0.52),
    (720, 1280, 49): (46_800, 2.935, 0.61),
    (720, 1280, 81): (75_600, 6.523, 0.72),
    (1280, 1280, 81): (134_400, 18.07, 0.82),
}


@pytest.mark.parametrize("size", TABLE)
def test_operations_of_a_pass_are_those_of_the_published_table(size: tuple[int, int, int]) -> None:
    height, width, frames = size
    tokens, pflop, share = TABLE[size]
    assert GRID.tokens(VideoShape(frames, height, width)) == tokens
    flops = expert_flops(A14B, tokens)
    assert float(f"{flops.total / 1e15:.4g}") == pytest.approx(pflop, abs=6e-4 if pflop < 10 else 6e-3)
    assert flops.attention / flops.total == pytest.approx(share, abs=0.006)


def test_the_formula_counts_what_torch_counts(scale: Scale) -> None:
    """All but the embeddings of patch, time and text and the head, which are outside the layers."""
    size = scale.sizes[0]

    def counted(blocks: int) -> int:
        graph = torch_parts.expert_graph(scale, blocks)
        # only the plain kernel's products are counted on a CPU
        math = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
            graph(*torch_parts.expert_inputs(scale, size).values())
        return int(counter.get_total_flops())

    two_layers = expert_flops(replace(SMALL, layers=2), scale.tokens(size)).total
    assert counted(3) - counted(1) == pytest.approx(two_layers, rel=1e-3)
