"""File of an expert's FP8 or INT8 weights, beside its graph; the other weights stay in the checkpoint.

    <checkpoint>/transformer/high_noise_expert.fp8.onnx
    <checkpoint>/transformer/high_noise_expert.fp8.onnx.data    34 x 351 MB for A14B

Each weight is read from its shard, rounded, transposed and written before the next one, so memory holds one weight.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from export.atomic import remove_abandoned, write_atomically
from export.checkpoint.folder import CheckpointError
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.graphs.fp8_layers import Fp8Linear, linear_layers, to_fp8
from export.graphs.int8_layers import SCALES, Int8Linear, to_int8
from export.graphs.precision import blocks_in_eight_bits, is_int8, torch_dtype

TYPE_NAMES = {  # as safetensors names them
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}
_TORCH_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
_READ_BYTES = 1 << 22  # per read of a shard; the allocator maps larger buffers anew each time, slower than the rounding
_ALIGNMENT = 8  # of a tensor in the file, as in safetensors
EightBitLinear = Fp8Linear | Int8Linear


@contextlib.contextmanager
def write_eight_bit_weights(
    graph: Path, module: nn.Module, weights: Mapping[str, StoredTensor], dtype: torch.dtype
) -> Iterator[Mapping[str, StoredTensor]]:
    """Write the FP8 or INT8 weights of `module` beside the ONNX file `graph`.

    Yields `weights` with the written tensors at their new location. `dtype` is the type of activations between these
    layers and of INT8's scales, which are written too. An existing graph is removed first, since its scales may not fit
    the new weights. If the `with` block fails, the new file is removed. Without such layers nothing is written.
    Raises CheckpointError if the disk has too little space.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, EightBitLinear)}
    if not layers:
        yield weights
        return
    target = data_file(graph)
    _check_space(target, [weights[f"{name}.weight"] for name in layers])
    graph.unlink(missing_ok=True)
    written = _write_all(target, layers, weights, dtype)
    try:
        yield {**weights, **written}
    except BaseException:
        target.unlink()
        raise


def eight_bit_bytes(checkpoint: Path, component: str, precision: str) -> int:
    """Return the bytes of an expert's FP8 or INT8 weights in a precision. Raises CheckpointError."""
    stored = stored_tensors(checkpoint, component)
    config = json.loads((checkpoint / component / "config.json").read_text(encoding="utf-8"))
    layers = linear_layers(blocks_in_eight_bits(precision, config["num_layers"]))
    shapes = [stored[f"{name}.weight"].shape for name in layers if f"{name}.weight" in stored]
    scales = sum(rows for rows, _ in shapes) * torch_dtype(precision).itemsize if is_int8(precision) else 0
    return sum(map(math.prod, shapes)) + scales


def data_file(graph: Path) -> Path:
    """Return the path of an ONNX file's FP8 or INT8 weights."""
    return graph.with_name(f"{graph.name}.data")


def _check_space(target: Path, weights: list[StoredTensor]) -> None:
    needed = sum(math.prod(weight.shape) for weight in weights)
    free = shutil.disk_usage(target.parent).free
    if free < needed and not all(_is_hollow(path) for path in {weight.path for weight in weights}):
        raise CheckpointError(
            f"{target}: the weights in eight bits take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
            "Free some space and run it again."
        )


def _is_hollow(path: Path) -> bool:
    """Whether a file is sparse, like a dummy checkpoint's. Its zeros become holes, so they need no disk space."""
    status = path.stat()
    return status.st_blocks * 512 < status.st_size // 2


def _write_all(
    target: Path, layers: Mapping[str, EightBitLinear], weights: Mapping[str, StoredTensor], dtype: torch.dtype
) -> dict[str, StoredTensor]:
    placed = {}
    remove_abandoned(target)
    with write_atomically(target) as partial, partial.open("wb") as file:
        for name, layer in layers.items():
            for suffix, tensor in _rounded(weights[f"{name}.weight"], layer, dtype).items():
                file.seek(-file.tell() % _ALIGNMENT, 1)
                shape, kind = tuple(tensor.shape), TYPE_NAMES[tensor.dtype]
                placed[f"{name}.{suffix}"] = StoredTensor(target, kind, shape, file.tell(), tensor.nbytes)
                _write(file, tensor)
        file.truncate()
    return placed


def _rounded(stored: StoredTensor, layer: EightBitLinear, dtype: torch.dtype) -> dict[str, Tensor]:
    """Quantise a stored weight (out, in). Returns tensors by parameter name: weight (in, out), INT8's scales (out)."""
    rounded = torch.empty(stored.shape, dtype=layer.weight.dtype)
    scales = torch.empty(stored.shape[:1], dtype=dtype)
    for rows, numbers in _read_rows(stored):
        if isinstance(layer, Int8Linear):
            rounded[rows], scales[rows] = to_int8(numbers, layer.form, dtype)
        else:
            rounded[rows] = to_fp8(numbers, layer.weight_scale, dtype)
    weight = {"weight": rounded.T.contiguous()}
    return {**weight, SCALES: scales} if isinstance(layer, Int8Linear) else weight


def _read_rows(stored: StoredTensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a stored matrix in chunks of rows, each with its row slice."""
    rows, columns = stored.shape
    row_bytes = stored.nbytes // rows
    step = max(1, _READ_BYTES // row_bytes)
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            numbers = torch.frombuffer(bytearray(file.read(count * row_bytes)), dtype=_TORCH_TYPES[stored.dtype])
            yield slice(start, start + count), numbers.reshape(count, columns)


def _write(file: BinaryIO, tensor: Tensor) -> None:
    numbers = tensor.view(torch.uint8).numpy()
    if numbers.any():
        file.write(numbers.tobytes())
    else:
        file.seek(numbers.nbytes, 1)
