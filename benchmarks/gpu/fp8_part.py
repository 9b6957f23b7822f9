"""FP8, INT8 and BF16 matrix products: the first linear layer of an expert's feed-forward, with each kind of scale."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Row, attempt, median_seconds
from benchmarks.gpu.torch_parts import random_bf16

E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True)
class ScaledMatrix:
    """A matrix in E4M3 and its scale: one number, or one per row."""

    values: Tensor
    scale: Tensor


def to_e4m3(matrix: Tensor, *, per_row: bool) -> ScaledMatrix:
    """Quantise a matrix to E4M3, scaled to its whole range, per row or per tensor."""
    peak = matrix.abs().amax(dim=1, keepdim=True) if per_row else matrix.abs().max()
    scale = (peak.float() / torch.finfo(E4M3).max).clamp_min(1e-12)
    return ScaledMatrix((matrix.float() / scale).to(E4M3), scale)


def fp8(scale: Scale) -> Iterator[Row]:
    """Yield rows: the product in BF16, then in FP8 with each kind of scale and of accumulation.

    FP8 rows also have the time to quantise the activations.
    """
    for size in sorted(scale.sizes, key=scale.tokens, reverse=True):
        rows, inner, columns = scale.tokens(size), scale.dims.dim, scale.dims.ffn_dim
        activations, weights = random_bf16(scale, rows, inner), random_bf16(scale, columns, inner) * inner**-0.5
        product = lambda activations=activations, weights=weights: activations @ weights.t()  # noqa: E731
        about = {"product": f"{rows}x{inner}x{columns}"}
        operations = 2 * rows * inner * columns

        def in_bf16(product: Callable[[], Tensor] = product, operations: int = operations) -> Row:
            seconds = median_seconds(product, scale.device, repeats=4 * scale.repeats)
            return {"seconds": seconds, "flops": operations}

        yield from attempt({**about, "precision": "bf16"}, in_bf16)
        in_int8 = partial(_in_int8, scale, activations, weights, product)
        yield from attempt({**about, "precision": "int8"}, in_int8)
        for per_row in (False, True):
            for fast_sum in (True, False):

                def in_fp8(
                    activations: Tensor = activations,
                    weights: Tensor = weights,
                    product: Callable[[], Tensor] = product,
                    per_row: bool = per_row,
                    fast_sum: bool = fast_sum,
                ) -> Row:
                    row = _in_fp8(scale, activations, weights, product, per_row=per_row, fast_sum=fast_sum)
                    return {**row, "flops": 2 * activations.numel() * len(weights)}

                kind = {"precision": "fp8", "scales": "per row" if per_row else "per tensor", "fast_sum": fast_sum}
                yield from attempt({**about, **kind}, in_fp8)


def _in_int8(scale: Scale, activations: Tensor, weights: Tensor, reference: Callable[[], Tensor]) -> Row:
    """Time the product alone, with its sums in INT32. Activations have one scale, weights one per row."""
    left_peak, right_peak = activations.abs().max().float(), weights.abs().amax(dim=1, keepdim=True).float()
    left, right = _to_int8(activations, left_peak), _to_int8(weights, right_peak)
    expected = reference().float()
    product = torch._int_mm(left, right.t()).float() * (left_peak * right_peak.t() / 127**2)
    difference = (product - expected).norm() / expected.norm()
    seconds = median_seconds(lambda: torch._int_mm(left, right.t()), scale.device, repeats=4 * scale.repeats)
    operations = 2 * activations.numel() * len(weights)
    return {"relative_difference": float(difference), "seconds": seconds, "flops": operations}


def _to_int8(matrix: Tensor, peak: Tensor) -> Tensor:
    return (matrix.float() * (127 / peak)).round().to(torch.int8)


def _in_fp8(
    scale: Scale,
    activations: Tensor,
    weights: Tensor,
    reference: Callable[[], Tensor],
    *,
    per_row: bool,
    fast_sum: bool,
) -> Row:
    left, right = to_e4m3(activations, per_row=per_row), to_e4m3(weights, per_row=per_row)

    def multiply() -> Tensor:
        return torch._scaled_mm(
            left.values,
            right.values.t(),
            scale_a=left.scale,
            scale_b=right.scale.t() if per_row else right.scale,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast_sum,
        )

    expected, product = reference(), multiply()
    difference = (product - expected).float().norm() / expected.float().norm()
    return {
        "relative_difference": float(difference),
        "scaling_seconds": median_seconds(
            lambda: to_e4m3(activations, per_row=per_row), scale.device, repeats=scale.repeats
        ),
        "seconds": median_seconds(multiply, scale.device, repeats=4 * scale.repeats),
    }
