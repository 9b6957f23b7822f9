"""Point a graph's weights into the checkpoint's own `.safetensors` files, by offset. No weight is read or copied.

ONNX Runtime and TensorRT take such a location only inside the graph's folder, so the graph is written beside the
shards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from torch import nn

from export.checkpoint import CheckpointError
from export.safetensors_index import StoredTensor, stored_tensors

ONNX_TYPES = {
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,  # what the export rounded itself (fp8_weights.py)
}
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # one matrix of UMT5 under two names
_NAMED = 5  # tensors that a message lists before it counts the rest
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Attached:
    """What a graph took from the checkpoint: weights, their elements, conversions inserted, and files."""

    tensors: int
    parameters: int
    casts: int
    files: tuple[str, ...]


def check_tensors(
    where: str,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Compare names and shapes that a component's config asks for with those that its files hold.

    Names that contain one of `ignored` may be surplus. Raises CheckpointError, which names what is wrong.
    """
    missing = [name for name in expected if name not in stored]
    surplus = [n for n in stored if n not in expected and not any(pattern in n for pattern in ignored)]
    shapes = [
        f"{name} is {stored[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    faults = {"missing": missing, "surplus": surplus, "of another shape": shapes}
    told = [f"{len(found)} {fault}: {_listed(found)}" for fault, found in faults.items() if found]
    if told:
        raise CheckpointError(
            f"{where}: the weights do not fit config.json; tensors {'; '.join(told)}. "
            "Take both from one download of the checkpoint."
        )


def with_one_embedding(where: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """UMT5's tensors with the embedding under both of its names, whichever the checkpoint holds.

    Some versions of transformers save or load `encoder.embed_tokens` as zeros beside a good `shared`
    (huggingface/transformers#43992); every prompt then means the same. Raises CheckpointError if no good one is there.
    """
    there = {name: stored[name] for name in EMBEDDINGS if name in stored}
    good = {name: tensor for name, tensor in there.items() if _any_bit(tensor)}
    if there and not good:
        raise CheckpointError(f"{where}: {' and '.join(there)} holds only zeros: every prompt would mean the same.")
    if len(good) == 2 and not _equal(*good.values()):
        raise CheckpointError(f"{where}: {EMBEDDINGS[0]} and {EMBEDDINGS[1]} should be one matrix and differ.")
    chosen = next(iter(good.values()), None)
    return {**stored, **(dict.fromkeys(EMBEDDINGS, chosen) if chosen else {})}


def weights_of(checkpoint: Path, component: str, shell: nn.Module) -> dict[str, StoredTensor]:
    """The component's tensors by the checkpoint's names, all there and of the shapes of `shell` (its bare module).

    Raises CheckpointError.
    """
    where = str(checkpoint / component)
    stored = stored_tensors(checkpoint, component)
    if component == "text_encoder":
        stored = with_one_embedding(where, stored)
    expected = {name: tuple(tensor.shape) for name, tensor in shell.state_dict().items()}
    ignored = getattr(shell, "_keys_to_ignore_on_load_unexpected", None) or ()
    check_tensors(where, expected, stored, ignored=ignored)
    return stored


def attach(model: ir.Model, weights: Mapping[str, StoredTensor]) -> Attached:
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
    parameters = sum(stored.nbytes // ONNX_TYPES[stored.dtype].itemsize for stored in used)
    return Attached(len(used), int(parameters), casts, files)


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


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _any_bit(tensor: StoredTensor) -> bool:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        return any(any(file.read(size)) for size in _chunks(tensor.nbytes))


def _equal(first: StoredTensor, second: StoredTensor) -> bool:
    if replace(first, path=Path(), offset=0) != replace(second, path=Path(), offset=0):
        return False
    with first.path.open("rb") as one, second.path.open("rb") as other:
        one.seek(first.offset)
        other.seek(second.offset)
        return all(one.read(size) == other.read(size) for size in _chunks(first.nbytes))


def _chunks(total: int) -> Iterable[int]:
    return (min(_CHUNK_BYTES, total - start) for start in range(0, total, _CHUNK_BYTES))
