"""FP8 products, rehearsed on the CPU."""

import pytest
import torch

from benchmarks.gpu import fp8_part
from benchmarks.gpu.scale import Scale


def test_fp8_is_measured_by_each_kind_of_scale(scale: Scale) -> None:
    rows = list(fp8_part.fp8(scale))
    assert "seconds" in rows[0] and rows[0]["precision"] == "bf16"
    in_int8, *rows = rows[1:]
    assert in_int8["precision"] == "int8" and 0 < in_int8["relative_difference"] < 0.05
    assert [(row["scales"], row["fast_sum"]) for row in rows] == [
        ("per tensor", True), ("per tensor", False), ("per row", True), ("per row", False)]  # fmt: skip
    measured = [row for row in rows if "error" not in row]
    assert measured, "a CPU multiplies in FP8 at least with one scale a tensor"
    assert all(0 < row["relative_difference"] < 0.1 for row in measured)


@pytest.mark.parametrize("per_row", [True, False])
def test_scaled_values_fill_the_range_of_e4m3(per_row: bool) -> None:
    matrix = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    found = fp8_part.to_e4m3(matrix, per_row=per_row)
    back = found.values.float() * found.scale
    assert torch.equal(found.values.float().abs().amax(1) == 448, torch.ones(16, dtype=torch.bool)) or not per_row
    assert found.values.float().abs().max() == 448
    assert ((back - matrix).norm() / matrix.norm()).item() < 0.05
