"""INT8 in an expert: the linear layers multiply whole numbers of eight bits, between values of the graph's own type.

An activation passes a QuantizeLinear and a DequantizeLinear with one calibrated scale, so that a row of a batch never
depends on the rows beside it. A weight is stored in INT8, transposed as the product reads it, with a scale for each
output. A compiler then makes one product of whole numbers of them. The two compilers want different numbers:

* ONNX Runtime takes activations in UInt8 around 128. On processors without VNNI it adds two products in 16 bits and
  clips the sum, which eight bits of both overflow (14 % off, found on AVX2). Weights here end at 64, so that
  2 * 255 * 64 fits, and the product is exact on every processor.
* TensorRT takes both in Int8 around 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from onnxscript import INT8, UINT8
from onnxscript import opset23 as onnx_ops
from torch import Tensor, nn

from export.graphs.fp8_layers import INPUT, linear_layers
from export.graphs.precision import io_precision

SCALES = "weight_scales"  # the parameter's name
_LOWEST, _HIGHEST = -128, 127  # of an activation, around its zero point


@dataclass(frozen=True)
class Int8Form:
    """The numbers that a compiler takes: where zero lies among an activation's, and the largest of a weight's."""

    zero_point: int
    largest_weight: int


ONNX_RUNTIME = Int8Form(zero_point=128, largest_weight=64)
TENSORRT = Int8Form(zero_point=0, largest_weight=127)


def form_of(precision: str) -> Int8Form:
    """What the compiler of graphs in a precision takes: TensorRT's graphs are BF16 between, ONNX Runtime's FP32."""
    return TENSORRT if io_precision(precision) == "bf16" else ONNX_RUNTIME


@torch.library.custom_op("wan_t2v::through_int8", mutates_args=())
def through_int8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """`x` rounded to multiples of `scale`, of the type of `x`; what lies beyond eight bits is clamped."""
    rounded = torch.tensor(scale, dtype=x.dtype).item()  # as the graph holds it
    return ((x.float() / rounded).round().clamp(_LOWEST, _HIGHEST) * rounded).to(x.dtype)


@through_int8.register_fake
def _shape_of_through_int8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("wan_t2v::from_int8", mutates_args=())
def from_int8(stored: Tensor, scales: Tensor) -> Tensor:
    """The numbers that a weight (in, out) stands for, of the type of `scales` (out)."""
    return (stored.float() * scales.float()).to(scales.dtype)


@from_int8.register_fake
def _shape_of_from_int8(stored: Tensor, scales: Tensor) -> Tensor:
    return torch.empty_like(stored, dtype=scales.dtype)


def _quantize_and_dequantize(x: Any, scale: float, zero_point: int) -> Any:
    zero = onnx_ops.Cast(onnx_ops.Constant(value_float=float(zero_point)), to=(UINT8 if zero_point else INT8).dtype)
    scale_of_type = onnx_ops.CastLike(onnx_ops.Constant(value_float=scale), x)
    return onnx_ops.DequantizeLinear(onnx_ops.QuantizeLinear(x, scale_of_type, zero), scale_of_type, zero)


def _dequantize(stored: Any, scales: Any) -> Any:
    return onnx_ops.DequantizeLinear(stored, scales, axis=1)


TO_ONNX: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.wan_t2v.through_int8.default: _quantize_and_dequantize,
    torch.ops.wan_t2v.from_int8.default: _dequantize,
}


def to_int8(weight: Tensor, form: Int8Form, of: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight (out, in) in INT8, and its scales (out), which are rounded to the type `of` as the graph's are."""
    weight = weight.float()
    largest = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * _HIGHEST)
    scales = (largest / form.largest_weight).to(of)
    multiples = (weight / scales.float()[:, None]).round()
    return multiples.clamp(-form.largest_weight, form.largest_weight).to(torch.int8), scales


class Int8Linear(nn.Linear):
    """A linear layer whose weight is kept in INT8, transposed to (in, out), and whose input goes through INT8.

    Parameters keep their names; `weight_scales` (out) is added. A weight on the `meta` device stays there.
    """

    def __init__(self, linear: nn.Linear, input_range: float, form: Int8Form) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.input_scale, self.form = input_range / _HIGHEST, form
        stored, scales = to_int8(linear.weight.detach(), form, linear.weight.dtype)
        self.weight_scales = nn.Parameter(scales, requires_grad=False)
        self.weight, self.bias = nn.Parameter(stored.T.contiguous(), requires_grad=False), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        product = through_int8(x, self.input_scale, self.form.zero_point) @ from_int8(self.weight, self.weight_scales)
        return product + self.bias


def input_ranges(blocks: range) -> list[str]:
    """Names of the ranges that calibration must bring; a weight's follow from the weight."""
    return [f"{layer}.{INPUT}" for layer in linear_layers(blocks)]


def put_in_int8(expert: WanTransformer3DModel, ranges: Mapping[str, float], *, blocks: range, form: Int8Form) -> None:
    """Make these blocks compute in INT8, in place, by the ranges of `input_ranges`."""
    for name in linear_layers(blocks):
        parent, _, child = name.rpartition(".")
        linear = expert.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        int8 = Int8Linear(linear, ranges[f"{name}.{INPUT}"], form)
        expert.get_submodule(parent).register_module(child, int8)
