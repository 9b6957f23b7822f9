"""Checks of a parsed TensorRT network before an hours-long build.

* An expert's attention must be TensorRT's attention layer, which does not need to write the scores to memory: at
  720x1280x81 they are 40 x 75,600 x 75,600 numbers. TensorRT-RTX has no such kernel for FP32, so an FP32 attention may
  be decomposed, and its scores count as a tensor. The layer alone does not prove fusion: TensorRT-RTX 1.7 accepted
  heads for which it has no dedicated kernel. A workspace that is too small for the scores does prove it.
* No tensor may have more than 2^31 - 1 elements, TensorRT's limit.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from export.errors import ExpectedError
from export.graphs.axes import Shape

MAX_ELEMENTS = 2**31 - 1


class NetworkError(ExpectedError):
    """A network that must not be built. The message names the layer."""


@dataclass(frozen=True)
class NetworkFacts:
    """Counts of a network. `largest` is the number of elements of its largest tensor at the largest shapes."""

    layers: int
    attention_layers: int
    softmax_layers: int
    largest: int


def demand_fused_attention(trt: Any, network: Any) -> None:
    """Let TensorRT decompose FP32 attention only. With several profiles it refuses FP32 attention otherwise."""
    for attention in _attentions(trt, network):
        attention.decomposable = _is_fp32(attention)


def network_facts(trt: Any, network: Any, shapes: Mapping[str, Shape]) -> NetworkFacts:
    """Count layers, and find the largest tensor for inputs of these shapes. Raises NetworkError."""
    kinds = [network.get_layer(index).type.name for index in range(network.num_layers)]
    return NetworkFacts(
        layers=len(kinds),
        attention_layers=kinds.count("ATTENTION_INPUT"),
        softmax_layers=kinds.count("SOFTMAX"),
        largest=_largest(trt, network, shapes),
    )


def check_attention(facts: NetworkFacts, expected: int | None) -> None:
    """Refuse an expert whose attention was decomposed or has another number of layers.

    `expected` is the number of attention layers; None accepts any even number above zero. Raises NetworkError.
    """
    if facts.softmax_layers:
        raise NetworkError(
            f"{facts.softmax_layers} softmax layers: attention was taken apart into matrix products. Whether their "
            "scores are written down is then left to chance. Export the graph with Attention nodes (opset 23)."
        )
    wrong = facts.attention_layers % 2 or not facts.attention_layers
    if wrong if expected is None else facts.attention_layers != expected:
        wanted = "two a block" if expected is None else expected
        raise NetworkError(f"{facts.attention_layers} attention layers, expected {wanted}: self- and cross-attention")


def _largest(trt: Any, network: Any, shapes: Mapping[str, Shape]) -> int:
    """Set the inputs' shapes, from which TensorRT derives all others, find the largest tensor, and set them back."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    before = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    try:
        for tensor in inputs:
            tensor.shape = shapes[tensor.name]
        scores = (_check_elements(a.name, "its scores", _scores(a)) for a in _attentions(trt, network) if _is_fp32(a))
        tensors = (
            _check_elements(layer.name, tensor.name, tuple(tensor.shape))
            for layer in _layers(network)
            for tensor in _outputs(layer)
        )
        return max(*scores, *tensors)
    finally:
        for tensor in inputs:
            tensor.shape = before[tensor.name]


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _attentions(trt: Any, network: Any) -> Iterator[Any]:
    for layer in _layers(network):
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # how TensorRT's Python API casts an ILayer to a subclass
            yield layer.attention


def _is_fp32(attention: Any) -> bool:
    return bool(attention.get_input(0).dtype.name == "FLOAT")


def _scores(attention: Any) -> Shape:
    """Return the scores' shape: (batch, heads, queries, keys)."""
    query, key = (tuple(attention.get_input(index).shape) for index in (0, 1))
    return (*query[:3], key[2])


def _check_elements(layer: str, name: str, shape: Shape) -> int:
    if any(size < 0 for size in shape):
        raise NetworkError(f"layer {layer}: the shape {shape} of {name} cannot be told from the inputs'")
    elements = math.prod(shape)
    if elements > MAX_ELEMENTS:
        raise NetworkError(
            f"layer {layer}: {name} has the shape {shape}, {elements:,} elements; TensorRT takes at most "
            f"{MAX_ELEMENTS:,}. Build for a smaller size, or, if it is an attention in FP32, export in bf16."
        )
    return elements
