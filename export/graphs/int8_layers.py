"""INT8 linear layers of an expert: products of 8-bit integers, between values of the graph's own type.

An activation goes through a QuantizeLinear and a DequantizeLinear with one calibrated scale, so that a row of a batch
never depends on the other rows. A weight is stored in INT8, transposed to (in, out), with one scale per output. A
compiler fuses these into one integer product. The two compilers need different integers:

* ONNX Runtime takes activations in UInt8 with zero point 128. On processors without VNNI it adds two products in 16
  bits with saturation, which 8-bit activations and weights overflow (14 % error, measured on AVX2). Weights here are
  at most 64, so 2 * 255 * 64 fits, and the product is exact on every processor.
* TensorRT takes both in Int8 with zero point 0.
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
_LOWEST, _HIGHEST = -128, 127  # of an activation, relative to its zero point


@dataclass(frozen=True)
class Int8Form:
    """A compiler's form of INT8: the zero point of activations, and the largest integer of a weight."""

    zero_point: int
    largest_weight: int


ONNX_RUNTIME = Int8Form(zero_point=128, largest_weight=64)
TENSORRT = Int8Form(zero_point=0, largest_weight=127)


def form_of(precision: str) -> Int8Form:
    """Return the form for a precision: TensorRT's for graphs with BF16 inputs and outputs, else ONNX Runtime's."""
    return TENSORRT if io_precision(precision) == "bf16" else ONNX_RUNTIME


@torch.library.custom_op("wan_t2v::through_int8", mutates_args=())
def through_int8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Quantise `x` to 8-bit multiples of `scale`, clamped, and dequantise it to the type of `x`."""
    rounded = torch.tensor(scale, dtype=x.dtype).item()  # the scale has the type of `x` in the graph
    return ((x.float() / rounded).round().clamp(_LOWEST, _HIGHEST) * rounded).to(x.dtype)


@through_int8.register_fake
def _shape_of_through_int8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("wan_t2v::from_int8", mutates_args=())
def from_int8(stored: Tensor, scales: Tensor) -> Tensor:
    """Dequantise a weight (in, out) to the type of `scales` (out)."""
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
    """Quantise a weight (out, in) to INT8. Returns it and its scales (out) in the type `of`, as in the graph."""
    weight = weight.float()
    largest = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * _HIGHEST)
    scales = (largest / form.largest_weight).to(of)
    multiples = (weight / scales.float()[:, None]).round()
    return multiples.clamp(-form.largest_weight, form.largest_weight).to(torch.int8), scales


class Int8Linear(nn.Linear):
    """Linear layer with an INT8 weight, transposed to (in, out), and an input that is rounded to INT8.

    Parameters keep the names of `nn.Linear`; `weight_scales` (out) is added. A weight on `meta` stays there.
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
    """List the names of the ranges that INT8 needs from calibration: of inputs only, since weights have their own."""
    return [f"{layer}.{INPUT}" for layer in linear_layers(blocks)]


def put_in_int8(expert: WanTransformer3DModel, ranges: Mapping[str, float], *, blocks: range, form: Int8Form) -> None:
    """Replace the linear layers of these blocks by INT8 layers, in place, with the ranges of `input_ranges`."""
    for name in linear_layers(blocks):
        parent, _, child = name.rpartition(".")
        linear = expert.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        int8 = Int8Linear(linear, ranges[f"{name}.{INPUT}"], form)
        expert.get_submodule(parent).register_module(child, int8)
