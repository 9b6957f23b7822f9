"""Point a graph's weights into the checkpoint's own `.safetensors` files, by offset. No weight is read or copied.

ONNX Runtime and TensorRT take such a location only inside the graph's folder, so the graph is written beside the
shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from export.checkpoint.weights.safetensors_index import StoredTensor
from export.graphs.int8_layers import SCALES

ONNX_TYPES = {
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,  # what the export rounded itself (quantisation/weights.py)
    "I8": ir.DataType.INT8,
}


@dataclass(frozen=True)
class ExternalData:
    """What a graph took from the checkpoint: tensors, elements of its parameters, conversions inserted, and files.

    INT8's scales are tensors and no parameters of the checkpoint.
    """

    tensors: int
    parameters: int
    casts: int
    files: tuple[str, ...]


def attach_external_data(model: ir.Model, weights: Mapping[str, StoredTensor]) -> ExternalData:
    """Give every initializer without a value its place in the checkpoint; `weights` has them by initializer name.

    A weight that is stored in another type than the graph's gets a Cast.
    """
    graph = model.graph
    opaque = [value for value in graph.initializers.values() if value.const_value is None]
    casts = 0
    for value in opaque:
        stored = weights[str(value.name)]
        if ONNX_TYPES[stored.dtype] == value.dtype:
            value.const_value = _external(stored, str(value.name))
        else:
            _insert_cast(graph, value, stored)
            casts += 1
    used = [weights[str(value.name)] for value in opaque]
    files = tuple(sorted({stored.path.name for stored in used}))
    counted = [weights[str(value.name)] for value in opaque if not str(value.name).endswith(f".{SCALES}")]
    parameters = sum(stored.nbytes // ONNX_TYPES[stored.dtype].itemsize for stored in counted)
    return ExternalData(len(used), int(parameters), casts, files)


def _external(stored: StoredTensor, name: str) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        stored.path.name,
        stored.offset,
        stored.nbytes,
        ONNX_TYPES[stored.dtype],
        shape=ir.Shape(stored.shape),
        name=name,
        base_dir=stored.path.parent,
    )


def _insert_cast(graph: ir.Graph, value: ir.Value, stored: StoredTensor) -> None:
    """Rename the weight to `<name>.stored` and let a Cast make the value that the graph's nodes read."""
    name, wanted = str(value.name), value.dtype
    assert wanted is not None
    tensor = _external(stored, f"{name}.stored")
    source = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    node = ir.node("Cast", [source], attributes={"to": int(wanted)}, name=f"{name}.cast")
    result = node.outputs[0]
    result.shape, result.type = value.shape, ir.TensorType(wanted)
    value.replace_all_uses_with(result)
    del graph.initializers[name]
    result.name = name
    graph.register_initializer(source)
    graph.insert_before(graph[0], node)
