"""External data: a graph's weights refer to offsets in the checkpoint's `.safetensors` files. No weight is copied.

ONNX Runtime and TensorRT accept external data only inside the graph's folder, so the graph is written beside the
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
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,  # this and I8: quantised by the export (quantisation/weights.py)
    "I8": ir.DataType.INT8,
}


@dataclass(frozen=True)
class ExternalData:
    """External data of a graph.

    Attributes:
        tensors: number of external tensors.
        parameters: elements of these tensors, without INT8's scales, which are no parameters of the checkpoint.
        casts: number of Casts inserted for weights that are stored in another type.
        files: names of the files that the graph refers to.
    """

    tensors: int
    parameters: int
    casts: int
    files: tuple[str, ...]


def attach_external_data(model: ir.Model, weights: Mapping[str, StoredTensor]) -> ExternalData:
    """Set the external location of every initializer without a value. `weights` is by initializer name.

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
    """Rename the weight to `<name>.stored`, and insert a Cast to the value that the graph's nodes read."""
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
