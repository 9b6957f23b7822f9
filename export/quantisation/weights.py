"""FP8 weights of an expert whose other weights stay in the checkpoint: a file beside the graph that reads it.

    <checkpoint>/transformer/high_noise_expert.fp8.onnx
    <checkpoint>/transformer/high_noise_expert.fp8.onnx.data    34 x 351 MB for A14B

One weight after the other is read from its shard, rounded and transposed, so that memory holds one at a time.
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

from export.atomic import write_atomically
from export.checkpoint.folder import CheckpointError
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.graphs.fp8_layers import Fp8Linear, linear_layers, to_fp8
from export.graphs.precision import blocks_in_fp8

FP8 = "F8_E4M3"  # as safetensors names the type
_TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_READ_BYTES = 1 << 26


@contextlib.contextmanager
def write_fp8_weights(
    graph: Path, module: nn.Module, weights: Mapping[str, StoredTensor], dtype: torch.dtype
) -> Iterator[Mapping[str, StoredTensor]]:
    """Write the FP8 weights of `module` for the ONNX file `graph`; yield `weights` with these in their new place.

    `dtype` is that of the activations between FP8 layers. A graph that stood there is removed first: its scales need
    not fit the new weights. If the block fails, the new file is removed. A module without FP8 layers writes nothing.
    Raises CheckpointError if the disk has too little space.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Fp8Linear)}
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


def fp8_bytes(checkpoint: Path, component: str) -> int:
    """Bytes that the FP8 weights of an expert will take. Raises CheckpointError."""
    stored = stored_tensors(checkpoint, component)
    config = json.loads((checkpoint / component / "config.json").read_text(encoding="utf-8"))
    layers = linear_layers(blocks_in_fp8(config["num_layers"]))
    return sum(math.prod(stored[f"{name}.weight"].shape) for name in layers if f"{name}.weight" in stored)


def data_file(graph: Path) -> Path:
    """Where the FP8 weights of an ONNX file lie."""
    return graph.with_name(f"{graph.name}.data")


def _check_space(target: Path, weights: list[StoredTensor]) -> None:
    needed = sum(math.prod(weight.shape) for weight in weights)
    free = shutil.disk_usage(target.parent).free
    if free < needed and not all(_is_hollow(path) for path in {weight.path for weight in weights}):
        raise CheckpointError(
            f"{target}: the weights in FP8 take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
            "Free some space and run it again."
        )


def _is_hollow(path: Path) -> bool:
    """Whether a file is sparse, as those of the dummy checkpoint; zeros are then written as a hole too."""
    status = path.stat()
    return status.st_blocks * 512 < status.st_size // 2


def _write_all(
    target: Path, layers: Mapping[str, Fp8Linear], weights: Mapping[str, StoredTensor], dtype: torch.dtype
) -> dict[str, StoredTensor]:
    stored = {}
    with write_atomically(target) as partial, partial.open("wb") as file:
        for name, layer in layers.items():
            rounded = _rounded(weights[f"{name}.weight"], layer.weight_scale, dtype)
            shape = tuple(rounded.shape)
            stored[f"{name}.weight"] = StoredTensor(target, FP8, shape, file.tell(), math.prod(shape))
            _write(file, rounded)
        file.truncate()
    return stored


def _rounded(stored: StoredTensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The weight (out, in) of a shard as E4M3 (in, out)."""
    rows, columns = stored.shape
    row_bytes = stored.nbytes // rows
    step = max(1, _READ_BYTES // row_bytes)
    rounded = torch.empty(stored.shape, dtype=torch.float8_e4m3fn)
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            numbers = torch.frombuffer(bytearray(file.read(count * row_bytes)), dtype=_TORCH_TYPES[stored.dtype])
            rounded[start : start + count] = to_fp8(numbers.reshape(count, columns), scale, dtype)
    return rounded.T.contiguous()


def _write(file: BinaryIO, tensor: Tensor) -> None:
    numbers = tensor.view(torch.uint8).numpy()
    if numbers.any():
        file.write(numbers.tobytes())
    else:
        file.seek(numbers.nbytes, 1)
