"""The size that the compile gate expects of a plan is placement's own."""

from pathlib import Path

import pytest

from export.checkpoint.architecture import A14B
from export.checkpoint.component_configs import read_architecture
from export.to_plan.compile_cases import COMPILE_TABLE, SMALL, CompileCase
from export.to_plan.network_check import NetworkError
from export.to_plan.weight_sizes import CODE_BYTES, check_plan_bytes, placed_weight_bytes


def case(model: str, graph: str, precision: str) -> CompileCase:
    return next(c for c in COMPILE_TABLE if (c.model, c.graph, c.precision) == (model, graph, precision))


def placed(precision: str, checkpoint: Path, model: str = "A14B") -> int:
    return placed_weight_bytes(case(model, "high_noise_expert", precision), read_architecture(checkpoint))


def test_an_expert_of_one_block_saves_a_byte_for_each_weight_of_its_linear_layers(checkpoint: Path) -> None:
    linear = A14B.expert.linear_parameters_of_a_block
    assert linear == 351_272_960
    for precision in ("fp8", "fp8-attention"):
        assert placed("bf16", checkpoint) - placed(precision, checkpoint) == linear
    one_block = A14B.expert.parameters - 39 * A14B.expert.block_parameters
    assert 2 * one_block < placed("bf16", checkpoint) < 2.2 * one_block  # the FP32 islands take the rest


def test_a_whole_small_expert_has_its_inner_blocks_in_fp8(checkpoint: Path) -> None:
    saved = placed("fp32", checkpoint, SMALL) - placed("fp8-fp32", checkpoint, SMALL)
    assert saved == 3 * 2 * (8 * 192**2 + 2 * 192 * 768)


def test_a_whole_small_expert_has_all_blocks_in_int8(checkpoint: Path) -> None:
    saved = placed("bf16", checkpoint, SMALL) - placed("int8-bf16", checkpoint, SMALL)
    assert saved == 4 * (8 * 192**2 + 2 * 192 * 768)


@pytest.mark.parametrize("row", [row for row in COMPILE_TABLE if row.model == "A14B"], ids=str)
def test_a_plan_that_is_too_large_or_too_small_is_refused(row: CompileCase, checkpoint: Path) -> None:
    small = read_architecture(checkpoint)
    expected = placed_weight_bytes(row, small)
    for accepted in (expected, 0.91 * expected, 1.09 * expected):
        check_plan_bytes(row, small, int(accepted))
    for refused in (0.89 * expected, 1.11 * expected + CODE_BYTES):
        with pytest.raises(NetworkError, match=r"the plan has .* MB and placement counts .* MB for its weights"):
            check_plan_bytes(row, small, int(refused))
