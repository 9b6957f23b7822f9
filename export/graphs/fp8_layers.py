"""FP8 linear layers of an expert: weights and inputs are rounded to E4M3.

In the graph, a weight is stored in FP8, transposed to (in, out), and read through a DequantizeLinear. An activation
goes through a QuantizeLinear and a DequantizeLinear. TensorRT then computes the product in FP8. Each tensor has one
scale: the largest absolute value in calibration over 448, the largest number of E4M3.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from onnxscript import FLOAT8E4M3FN
from onnxscript import opset23 as onnx_ops
from torch import Tensor, nn

E4M3_MAX = 448.0
ATTENTION_INPUTS = ("query", "key", "value")
WEIGHT, INPUT = "weight", "input"
_STORED = torch.float8_e4m3fn


def to_fp8(x: Tensor, scale: float, of: torch.dtype) -> Tensor:
    """Quantise `x` to multiples of `scale` in E4M3, clamped. The scale is rounded to the type `of`, as in the graph."""
    return (x.float() / _rounded(scale, of)).clamp(-E4M3_MAX, E4M3_MAX).to(_STORED)


@torch.library.custom_op("wan_t2v::through_fp8", mutates_args=())
def through_fp8(x: Tensor, scale: float) -> Tensor:
    """Quantise `x` to E4M3 with `scale`, clamped, and dequantise it to the type of `x`."""
    return dequantized(to_fp8(x, scale, x.dtype), scale, x.dtype)


@through_fp8.register_fake
def _shape_of_through_fp8(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("wan_t2v::from_fp8", mutates_args=())
def from_fp8(stored: Tensor, scale: float, like: Tensor) -> Tensor:
    """Dequantise a tensor in E4M3 to the type of `like`."""
    return dequantized(stored, scale, like.dtype)


@from_fp8.register_fake
def _shape_of_from_fp8(stored: Tensor, scale: float, like: Tensor) -> Tensor:
    return torch.empty_like(stored, dtype=like.dtype)


def _rounded(scale: float, of: torch.dtype) -> float:
    return torch.tensor(scale, dtype=of).item()


def dequantized(stored: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Dequantise a tensor in E4M3 to `dtype`."""
    return (stored.float() * _rounded(scale, dtype)).to(dtype)


def _quantize_and_dequantize(x: Any, scale: float) -> Any:
    zero_point = onnx_ops.Cast(onnx_ops.Constant(value_float=0.0), to=FLOAT8E4M3FN.dtype)
    scale_of_type = onnx_ops.CastLike(onnx_ops.Constant(value_float=scale), x)
    quantised = onnx_ops.QuantizeLinear(x, scale_of_type, zero_point)
    return onnx_ops.DequantizeLinear(quantised, scale_of_type, zero_point)


def _dequantize(stored: Any, scale: float, like: Any) -> Any:
    return onnx_ops.DequantizeLinear(stored, onnx_ops.CastLike(onnx_ops.Constant(value_float=scale), like))


TO_ONNX: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.wan_t2v.through_fp8.default: _quantize_and_dequantize,
    torch.ops.wan_t2v.from_fp8.default: _dequantize,
}


class Fp8Linear(nn.Linear):
    """Linear layer with an FP8 weight, transposed to (in, out), and an input that is rounded to FP8.

    Parameters keep the names of `nn.Linear`. A weight on the `meta` device stays there.
    """

    def __init__(self, linear: nn.Linear, weight_range: float, input_range: float) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight_scale, self.input_scale = weight_range / E4M3_MAX, input_range / E4M3_MAX
        stored = to_fp8(linear.weight, self.weight_scale, linear.weight.dtype).T.contiguous()
        self.weight, self.bias = nn.Parameter(stored, requires_grad=False), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        product = through_fp8(x, self.input_scale) @ from_fp8(self.weight, self.weight_scale, x)
        return product + self.bias


def linear_layers(blocks: range) -> list[str]:
    """List the names of the linear layers of these blocks, ten per block."""
    attention = [f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    return [f"blocks.{b}.{name}" for b in blocks for name in (*attention, "ffn.net.0.proj", "ffn.net.2")]


def attentions_in_fp8(blocks: range) -> list[str]:
    """List the names of the attentions whose query, key and value can be rounded to FP8, two per block."""
    return [f"blocks.{block}.{name}" for block in blocks for name in ("attn1", "attn2")]


def needed_ranges(blocks: range) -> list[str]:
    """List the names of all ranges that FP8 needs from calibration.

    They are `<layer>.weight` and `.input`, and `<attention>.query`, `.key` and `.value`.
    """
    linear = [f"{layer}.{kind}" for layer in linear_layers(blocks) for kind in (WEIGHT, INPUT)]
    return linear + [f"{attention}.{kind}" for attention in attentions_in_fp8(blocks) for kind in ATTENTION_INPUTS]


def put_in_fp8(
    expert: WanTransformer3DModel, ranges: Mapping[str, float], *, blocks: range, attention: bool = False
) -> None:
    """Replace the linear layers of these blocks by FP8 layers, in place, with the ranges of `needed_ranges`.

    diffusers' own forward then runs in FP8 too. With `attention`, the scales of its inputs are stored on the attention
    modules, where only the export form reads them.
    """
    for name in linear_layers(blocks):
        parent, _, child = name.rpartition(".")
        linear = expert.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        fp8 = Fp8Linear(linear, ranges[f"{name}.{WEIGHT}"], ranges[f"{name}.{INPUT}"])
        expert.get_submodule(parent).register_module(child, fp8)
    for name in attentions_in_fp8(blocks) if attention else ():
        scales: Any = tuple(ranges[f"{name}.{kind}"] / E4M3_MAX for kind in ATTENTION_INPUTS)
        expert.get_submodule(name).fp8_scales = scales
