"""FP8 attention in the form that TensorRT fuses: query, key, value and the softmax are rounded to E4M3.

ONNX's `Attention` has no input for the scale of the softmax, and without one TensorRT-RTX 1.7 computes in BF16. The
node is therefore TensorRT's own operator, `TRT_QuantizedAttention`. The graph also defines it as a function of standard
operators, so that ONNX Runtime can run it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnx import helper
from onnx.defs import OpSchema
from onnxscript import FLOAT8E4M3FN
from onnxscript import opset23 as onnx_ops
from onnxscript.values import Op, Opset
from torch import Tensor

from export.graphs.fp8_layers import E4M3_MAX, dequantized, through_fp8, to_fp8
from export.graphs.precision import QUANTIZED_ATTENTION

DOMAIN = "trt"
SOFTMAX_SCALE = 1.0 / E4M3_MAX  # a softmax is at most 1
_INPUTS = ("query", "key", "value", "mask", "softmax_scale")  # of the operator; the mask is never given
_ATTRIBUTES = {"scale": OpSchema.AttrType.FLOAT, "normalization_quantize_to_type": OpSchema.AttrType.INT}
_OPERATOR = Op(
    Opset(DOMAIN, 1),
    QUANTIZED_ATTENTION,
    OpSchema(
        QUANTIZED_ATTENTION,
        DOMAIN,
        1,
        inputs=[
            OpSchema.FormalParameter(
                name,
                "T",
                param_option=getattr(OpSchema.FormalParameterOption, "Optional" if name == "mask" else "Single"),
            )
            for name in _INPUTS
        ],
        outputs=[OpSchema.FormalParameter("attended", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[OpSchema.Attribute(name, type_) for name, type_ in _ATTRIBUTES.items()],
    ),
)


def attended_in_fp8(query: Tensor, key: Tensor, value: Tensor, scales: tuple[float, float, float]) -> Tensor:
    """Compute attention in FP8 from query, key and value (B, heads, tokens, head_dim) with the scale of each.

    Query and key are each multiplied by head_dim ** -0.25 before they are quantised. TensorRT fuses the attention only
    if nothing is computed between the quantised tensors and the matrix products.
    """
    half = query.shape[-1] ** -0.25
    query = through_fp8(query * half, scales[0] * half)
    key = through_fp8(key * half, scales[1] * half)
    return fp8_attention(query, key, through_fp8(value, scales[2]))


@torch.library.custom_op("wan_t2v::fp8_attention", mutates_args=())
def fp8_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention with the softmax rounded to E4M3. Query and key must be scaled already."""
    scores = torch.softmax(query.float() @ key.float().transpose(-1, -2), dim=-1).to(query.dtype)
    rounded = dequantized(to_fp8(scores, SOFTMAX_SCALE, scores.dtype), SOFTMAX_SCALE, scores.dtype)
    return rounded @ value


@fp8_attention.register_fake
def _shape_of_fp8_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(query)


def _quantized_attention(query: Any, key: Any, value: Any) -> Any:
    softmax_scale = onnx_ops.CastLike(onnx_ops.Constant(value_float=SOFTMAX_SCALE), query)
    return _OPERATOR(
        query, key, value, None, softmax_scale, scale=1.0, normalization_quantize_to_type=FLOAT8E4M3FN.dtype
    )


TO_ONNX: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.wan_t2v.fp8_attention.default: _quantized_attention,
}


def define_quantized_attention(model: ir.Model, opset: int) -> None:
    """Define TensorRT's operator as a function of standard operators, if the graph has such a node."""
    if not any(node.op_type == QUANTIZED_ATTENTION for node in model.graph):
        return
    zero = helper.make_tensor("zero", FLOAT8E4M3FN.dtype, [], b"\0", raw=True)
    body = [
        helper.make_node("Transpose", ["key"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["query", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("Constant", [], ["zero"], value=zero),
        helper.make_node("QuantizeLinear", ["weights", "softmax_scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "softmax_scale", "zero"], ["rounded"]),
        helper.make_node("MatMul", ["rounded", "value"], ["attended"]),
    ]
    function = helper.make_function(
        DOMAIN,
        QUANTIZED_ATTENTION,
        list(_INPUTS),
        ["attended"],
        body,
        [helper.make_opsetid("", opset)],
        list(_ATTRIBUTES),
    )
    defined = ir.serde.deserialize_function(function)
    model.functions[defined.identifier()] = defined
    model.opset_imports[DOMAIN] = 1
