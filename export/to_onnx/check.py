"""Check of a written ONNX graph that neither runs it nor reads its weights, which can be 57 GB.

With its axes fixed to the size of a clip, every value must have a static shape, ONNX's strict shape inference must
agree, and the outputs must have the contract's shapes. The ONNX checker itself runs in `exporter.save`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import optimizer

from export.errors import ExpectedError
from export.graphs.axes import axes_of, input_shapes, with_fixed_axes
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

Shapes = dict[str, tuple[int, ...]]


class GraphError(ExpectedError):
    """A graph with a wrong shape or a wrong number of weights. The message names the value."""


@dataclass(frozen=True)
class Structure:
    """Size of a graph. `elements` counts initializer elements by type, such as {"BFLOAT16": 14,259,307,584}."""

    nodes: int
    casts: int
    elements: Mapping[str, int]
    onnx_mb: float


def structure(path: Path) -> Structure:
    """Count nodes and weights of the ONNX file at `path`."""
    model = onnx.load(path, load_external_data=False)
    elements: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        elements[onnx.TensorProto.DataType.Name(tensor.data_type)] += math.prod(tensor.dims)
    casts = sum(node.op_type == "Cast" for node in model.graph.node)
    return Structure(len(model.graph.node), casts, dict(elements), round(path.stat().st_size / 1e6, 1))


def dtypes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the ONNX element type of every input and output."""
    name_of = onnx.TensorProto.DataType.Name
    return {v.name: name_of(v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)}


def check_shapes(path: Path, graph: str, facts: ModelFacts, sizes: tuple[VideoShape, ...]) -> None:
    """Infer all shapes at each clip size, at batch 1, and compare the outputs' with the contract. Raises GraphError."""
    model = onnx.load(path, load_external_data=False)
    for size in sizes:
        axes = {"batch": 1, **axes_of(graph, None if graph == "text_encoder" else size, facts)}
        wanted = expected_outputs(graph, input_shapes(model, axes), facts)
        inferred = inferred_outputs(with_fixed_axes(model, axes))
        for name, shape in wanted.items():
            if inferred.get(name) != shape:
                raise GraphError(f"{graph} at {size}: {name} has the shape {inferred.get(name)}, expected {shape}")


def expected_outputs(graph: str, inputs: Shapes, facts: ModelFacts) -> Shapes:
    """Return the contract's output shapes for these input shapes."""
    if graph == "text_encoder":
        return {"text_embeddings": (*inputs["input_ids"], facts.text_dim)}
    if not graph.startswith("vae_"):
        return {"velocity": inputs["hidden_states"]}
    batch, _, frames, height, width = inputs["latents"]
    stride = facts.grid.space_stride
    frames = facts.grid.time_stride * frames
    if graph == "vae_decoder_first":
        frames -= facts.grid.time_stride - 1  # the first latent frame gives one frame
    caches = {name.replace("in", "out"): shape for name, shape in inputs.items() if name.startswith("cache_in_")}
    return {"frames": (batch, 3, frames, stride * height, stride * width), **caches}


def inferred_outputs(model: onnx.ModelProto) -> Shapes:
    """Infer the output shapes of a graph whose input axes are all fixed. Raises GraphError.

    Shapes that the graph itself computes, such as a Reshape's, are folded to constants first. Plain shape inference
    cannot see through them.
    """
    folded = ir.from_proto(model)
    optimizer.inline(folded)  # TensorRT's own operators are functions in the graph
    for value in folded.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):  # constant folding would read it from the checkpoint
            value.const_value = None
    with np.errstate(all="ignore"):  # both branches of a Where are folded: UMT5 takes the logarithm of distance 0
        optimizer.fold_constants_ir(folded, onnx_shape_inference=True)
    for node in folded.graph:
        for value in node.outputs:
            if value.name and (value.shape is None or not value.shape.is_static()):
                raise GraphError(
                    f"the shape of {value.name}, made by {node.op_type}, cannot be inferred: {value.shape}"
                )
    _infer_strictly(model, folded)
    return {str(v.name): tuple(int(d) for d in v.shape or ()) for v in folded.graph.outputs}  # type: ignore[arg-type]


def _infer_strictly(model: onnx.ModelProto, folded: ir.Model) -> None:
    """Run ONNX's strict inference from inputs and constants: types and shapes of every node must agree.

    Raises GraphError.
    """
    opaque = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    for name in opaque:
        if name in folded.graph.initializers:
            del folded.graph.initializers[name]
    proto = ir.to_proto(folded)
    proto.graph.initializer.extend(opaque.values())
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"shape inference: {error}") from None
