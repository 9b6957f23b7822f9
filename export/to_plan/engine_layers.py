"""Layers of a built plan: the type in which each linear layer and each attention of an expert runs.

TensorRT's engine inspector needs a GPU, since it reads a loaded plan. The builder gives the same information on a CPU:
with detailed profiling verbosity it logs one line per layer, with its input tensors and its ONNX nodes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from export.graphs.precision import QUANTIZED_ATTENTION
from export.to_plan.network_check import NetworkError

_TYPES: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "Float",
    onnx.TensorProto.BFLOAT16: "BFloat16",
    onnx.TensorProto.FLOAT16: "Half",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT8: "Int8",
}
FP8 = _TYPES[onnx.TensorProto.FLOAT8E4M3FN]
INT8 = _TYPES[onnx.TensorProto.INT8]
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: .*?Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[.*Metadata:(?P<nodes>.*)$",
    re.MULTILINE,
)
_TENSOR = re.compile(r"Dimensions: \[(?P<shape>[\d,]*)\].*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_QUERY_KEY_VALUE = 3


@dataclass(frozen=True)
class Tensor:
    """A tensor of a built layer."""

    elements: int
    type: str


@dataclass(frozen=True)
class BuiltLayer:
    """One layer of a plan. `nodes` are the names of the ONNX nodes that it computes."""

    name: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    nodes: frozenset[str]


@dataclass(frozen=True)
class Linear:
    """One matrix product with a weight in a graph: the ONNX node, and the type in which it must run."""

    node: str
    weight: str
    elements: int
    type: str


def read_layers(listing: str) -> list[BuiltLayer]:
    """Parse TensorRT's list of layers. Raises NetworkError if no line of it can be parsed."""
    layers = [
        BuiltLayer(m["name"], _tensors(m["inputs"]), _tensors(m["constants"]), frozenset(_NODE.findall(m["nodes"])))
        for m in _LAYER.finditer(listing)
    ]
    if not layers:
        raise NetworkError(f"TensorRT did not list the layers that it built, or in another form: {listing[:200]!r}")
    return layers


def linears_of(model: onnx.ModelProto) -> list[Linear]:
    """Return every MatMul and Gemm of a graph that reads a weight."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    linears = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            source, casts = _source(node.input[1], makers)
            if source in weights:
                stored = weights[source]
                linears.append(
                    Linear(node.name, source, math.prod(stored.dims), _TYPES[(casts or [stored.data_type])[0]])
                )
    return linears


def _source(name: str, makers: dict[str, onnx.NodeProto]) -> tuple[str, list[int]]:
    """Follow a weight back to its initializer. Returns its name, and the types of Casts on the way, the last first."""
    casts: list[int] = []
    while name in makers and makers[name].op_type in ("Transpose", "Cast", "DequantizeLinear", "QuantizeLinear"):
        maker = makers[name]
        casts += [attribute.i for attribute in maker.attribute if attribute.name == "to"]
        name = maker.input[0]
    return name, casts


def check_linears(linears: Sequence[Linear], layers: Sequence[BuiltLayer]) -> None:
    """Refuse a plan in which a linear layer runs in another type than its graph states. Raises NetworkError.

    The built layer of a product has a constant at least as large as the product's weight. It can be larger, since
    TensorRT merges products with the same input.
    """
    for linear in linears:
        types = {
            _type_of_product(layer, constant)
            for layer in layers
            if linear.node in layer.nodes
            for constant in layer.constants
            if constant.elements >= linear.elements
        }
        if types != {linear.type}:
            built = ", ".join(sorted(types)) or "no layer that reads it"
            raise NetworkError(f"{linear.node} ({linear.weight}) is to run in {linear.type}, TensorRT built: {built}")


def _type_of_product(layer: BuiltLayer, weight: Tensor) -> str:
    """Return the type in which a layer computes a product: its weight's type.

    An FP8 or INT8 weight must have an input of the same type beside it, since the weight could be dequantised first.
    For other types the inputs do not tell: a norm in FP32 may be fused into the layer.
    """
    inputs = [tensor.type for tensor in layer.inputs]
    mixed = weight.type in (FP8, INT8) and weight.type not in inputs
    return f"{inputs} by {weight.type}" if mixed else weight.type


def check_fp8_attention(model: onnx.ModelProto, layers: Sequence[BuiltLayer]) -> int:
    """Refuse a plan in which an attention in FP8 is not one layer that reads query, key and value in FP8.

    Returns the number of FP8 attentions. Raises NetworkError.
    """
    nodes = [node.name for node in model.graph.node if node.op_type == QUANTIZED_ATTENTION]
    for node in nodes:
        fused = [layer for layer in layers if node in layer.nodes and _reads_fp8_three_times(layer)]
        if len(fused) != 1:
            built = "; ".join(
                f"{layer.name}: {[t.type for t in layer.inputs]}" for layer in layers if node in layer.nodes
            )
            raise NetworkError(
                f"{node} is to be one layer that reads query, key and value in FP8, TensorRT built {built}"
            )
    return len(nodes)


def _reads_fp8_three_times(layer: BuiltLayer) -> bool:
    return [tensor.type for tensor in layer.inputs] == [FP8] * _QUERY_KEY_VALUE


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(math.prod(int(size) for size in m["shape"].split(",") if size), m["type"])
        for m in _TENSOR.finditer(text)
    )
