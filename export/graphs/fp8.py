"""FP8 in an expert: what a layer reads is rounded to E4M3 and back, in the graph a QuantizeLinear and DequantizeLinear.

TensorRT takes such a pair before a matrix product (or before `Attention`) for the order to compute it in FP8. One scale
holds for a whole tensor: the largest absolute value that calibration saw, over 448, E4M3's largest number.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from onnxscript import FLOAT8E4M3FN
from onnxscript import opset23 as onnx_ops
from torch import Tensor, nn
from torch.nn import functional

E4M3_MAX = 448.0
ATTENTION_INPUTS = ("query", "key", "value")
WEIGHT, INPUT = "weight", "input"


@torch.library.custom_op("wan_t2v::through_fp8", mutates_args=())
def through_fp8(x: Tensor, scale: float) -> Tensor:
    """`x` rounded to multiples of `scale` that E4M3 has, of the type of `x`; what lies beyond is clamped."""
    scaled = (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX)
    return (scaled.to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


@through_fp8.register_fake
def _shape_of_through_fp8(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


def _quantize_and_dequantize(x: Any, scale: float) -> Any:
    zero_point = onnx_ops.Cast(onnx_ops.Constant(value_float=0.0), to=FLOAT8E4M3FN.dtype)
    scale_of_type = onnx_ops.CastLike(onnx_ops.Constant(value_float=scale), x)
    quantised = onnx_ops.QuantizeLinear(x, scale_of_type, zero_point)
    return onnx_ops.DequantizeLinear(quantised, scale_of_type, zero_point)


TO_ONNX: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.wan_t2v.through_fp8.default: _quantize_and_dequantize,
}


class Fp8Linear(nn.Linear):
    """A linear layer whose weight and input go through FP8; parameters keep their names."""

    def __init__(self, linear: nn.Linear, weight_range: float, input_range: float) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight_scale, self.input_scale = weight_range / E4M3_MAX, input_range / E4M3_MAX

    def forward(self, x: Tensor) -> Tensor:
        weight = through_fp8(self.weight, self.weight_scale)
        return functional.linear(through_fp8(x, self.input_scale), weight, self.bias)


def layers_in_fp8(blocks: range) -> list[str]:
    """Names of the linear layers of these blocks: ten a block."""
    attention = [f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    return [f"blocks.{b}.{name}" for b in blocks for name in (*attention, "ffn.net.0.proj", "ffn.net.2")]


def attentions_in_fp8(blocks: range) -> list[str]:
    """Names of the attentions whose query, key and value may go through FP8: two a block."""
    return [f"blocks.{block}.{name}" for block in blocks for name in ("attn1", "attn2")]


def needed_ranges(blocks: range) -> list[str]:
    """Names of all ranges that calibration must bring: `<layer>.weight` and `.input`, `<attention>.query`, `.key` and
    `.value`.
    """
    linear = [f"{layer}.{kind}" for layer in layers_in_fp8(blocks) for kind in (WEIGHT, INPUT)]
    return linear + [f"{attention}.{kind}" for attention in attentions_in_fp8(blocks) for kind in ATTENTION_INPUTS]


def pairs_in_graph(blocks: int, *, attention: bool) -> int:
    """Pairs of QuantizeLinear and DequantizeLinear that so many blocks have in FP8: ten weights and six inputs each
    (query, key and value of self-attention share one), the text once for all; with `attention`, six more each.
    """
    return (16 + 6 * attention) * blocks + 1 if blocks else 0


def put_in_fp8(
    expert: WanTransformer3DModel, ranges: Mapping[str, float], *, blocks: range, attention: bool = False
) -> None:
    """Make these blocks compute in FP8, in place, by the ranges of `needed_ranges`; with `attention`, its inputs too.

    diffusers' own forward then computes so, but for the inputs of attention, which the export form reads.
    """
    for name in layers_in_fp8(blocks):
        parent, _, child = name.rpartition(".")
        linear = expert.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        fp8 = Fp8Linear(linear, ranges[f"{name}.{WEIGHT}"], ranges[f"{name}.{INPUT}"])
        expert.get_submodule(parent).register_module(child, fp8)
    for name in attentions_in_fp8(blocks) if attention else ():
        scales: Any = tuple(ranges[f"{name}.{kind}"] / E4M3_MAX for kind in ATTENTION_INPUTS)
        expert.get_submodule(name).fp8_scales = scales
