"""Layers that TensorRT built: the type in which each linear layer and each attention of an expert runs.

TensorRT's inspector needs a GPU, since it reads a loaded plan. The builder says the same on a CPU: with detailed
profiling verbosity it logs one line for each layer, with the tensors that it reads and the ONNX nodes it came from.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from export.graphs.fp8_attention import QUANTIZED_ATTENTION
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
    """One layer of a plan; `nodes` are the ONNX nodes that it computes."""

    name: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    nodes: frozenset[str]


@dataclass(frozen=True)
class Linear:
    """One matrix product of a graph with a weight: the ONNX node, and the type that it is to run in."""

    node: str
    weight: str
    elements: int
    type: str


def read_layers(listing: str) -> list[BuiltLayer]:
    """Read TensorRT's listing. Raises NetworkError if no line of it is understood."""
    layers = [
        BuiltLayer(m["name"], _tensors(m["inputs"]), _tensors(m["constants"]), frozenset(_NODE.findall(m["nodes"])))
        for m in _LAYER.finditer(listing)
    ]
    if not layers:
        raise NetworkError(f"TensorRT did not list the layers that it built, or in another form: {listing[:200]!r}")
    return layers


def linears_of(model: onnx.ModelProto) -> list[Linear]:
    """Every MatMul and Gemm of a graph that reads a weight."""
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
    """Follow a weight back to where it is stored; the types that it is cast to on the way, the last one first."""
    casts: list[int] = []
    while name in makers and makers[name].op_type in ("Transpose", "Cast", "DequantizeLinear", "QuantizeLinear"):
        maker = makers[name]
        casts += [attribute.i for attribute in maker.attribute if attribute.name == "to"]
        name = maker.input[0]
    return name, casts


def check_linears(linears: Sequence[Linear], layers: Sequence[BuiltLayer]) -> None:
    """Refuse a plan in which a linear layer runs in another type than its graph says. Raises NetworkError.

    The layer that computes it reads a constant no smaller than its weight. Products of one input are joined, so that it
    may be larger.
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
    """The weight's type; one in eight bits counts only beside an input of its type: it could be dequantised first.

    In 16 bits the inputs say nothing: a norm in FP32 may be fused into the layer.
    """
    inputs = [tensor.type for tensor in layer.inputs]
    mixed = weight.type in (FP8, INT8) and weight.type not in inputs
    return f"{inputs} by {weight.type}" if mixed else weight.type


def check_fp8_attention(model: onnx.ModelProto, layers: Sequence[BuiltLayer]) -> int:
    """Refuse a plan in which an attention in FP8 is not one layer that reads query, key and value in FP8.

    Returns how many there are. Raises NetworkError.
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
