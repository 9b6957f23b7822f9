"""FP8 in an expert: what a layer reads is rounded to E4M3, in the graph by QuantizeLinear and DequantizeLinear.

A weight is stored in FP8, transposed as the product reads it, before a DequantizeLinear. An activation passes a
QuantizeLinear and a DequantizeLinear. TensorRT then computes the product in FP8. One scale holds for a whole tensor:
the largest absolute value that calibration saw, over 448, E4M3's largest number.
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
LINEARS_OF_A_BLOCK = 10  # query, key, value and output of both attentions, two of the feed-forward
WEIGHT, INPUT = "weight", "input"
_STORED = torch.float8_e4m3fn


def to_fp8(x: Tensor, scale: float, of: torch.dtype) -> Tensor:
    """`x` in multiples of `scale`, as E4M3; what lies beyond is clamped. The scale is rounded as the graph's is."""
    return (x.float() / _rounded(scale, of)).clamp(-E4M3_MAX, E4M3_MAX).to(_STORED)


@torch.library.custom_op("wan_t2v::through_fp8", mutates_args=())
def through_fp8(x: Tensor, scale: float) -> Tensor:
    """`x` rounded to multiples of `scale` that E4M3 has, of the type of `x`; what lies beyond is clamped."""
    return dequantized(to_fp8(x, scale, x.dtype), scale, x.dtype)


@through_fp8.register_fake
def _shape_of_through_fp8(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("wan_t2v::from_fp8", mutates_args=())
def from_fp8(stored: Tensor, scale: float, like: Tensor) -> Tensor:
    """The numbers that a tensor in E4M3 stands for, of the type of `like`."""
    return dequantized(stored, scale, like.dtype)


@from_fp8.register_fake
def _shape_of_from_fp8(stored: Tensor, scale: float, like: Tensor) -> Tensor:
    return torch.empty_like(stored, dtype=like.dtype)


def _rounded(scale: float, of: torch.dtype) -> float:
    return torch.tensor(scale, dtype=of).item()


def dequantized(stored: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The numbers of `dtype` that a tensor in E4M3 stands for."""
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
    """A linear layer whose weight is kept in FP8, transposed to (in, out), and whose input goes through FP8.

    Parameters keep their names. A weight on the `meta` device stays there.
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
    """Names of the linear layers of these blocks: ten per block."""
    attention = [f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    return [f"blocks.{b}.{name}" for b in blocks for name in (*attention, "ffn.net.0.proj", "ffn.net.2")]


def attentions_in_fp8(blocks: range) -> list[str]:
    """Names of the attentions whose query, key and value may go through FP8: two per block."""
    return [f"blocks.{block}.{name}" for block in blocks for name in ("attn1", "attn2")]


def needed_ranges(blocks: range) -> list[str]:
    """Names of all ranges that calibration must bring: `<layer>.weight` and `.input`, `<attention>.query`, `.key` and
    `.value`.
    """
    linear = [f"{layer}.{kind}" for layer in linear_layers(blocks) for kind in (WEIGHT, INPUT)]
    return linear + [f"{attention}.{kind}" for attention in attentions_in_fp8(blocks) for kind in ATTENTION_INPUTS]


def rounded_inputs(blocks: int, *, attention: bool) -> int:
    """Activations that pass a QuantizeLinear in the graph of so many blocks in FP8.

    Six of each block's ten linear layers have an input of their own: query, key and value of self-attention share one,
    and the text is rounded once for all blocks. With `attention`, query, key and value of both attentions are too.
    """
    return (6 + 6 * attention) * blocks + 1 if blocks else 0


def put_in_fp8(
    expert: WanTransformer3DModel, ranges: Mapping[str, float], *, blocks: range, attention: bool = False
) -> None:
    """Make these blocks compute in FP8, in place, by the ranges of `needed_ranges`; with `attention`, its inputs too.

    diffusers' own forward then computes so, but for the inputs of attention, which the export form reads.
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
