"""Merge of one shard: read each tensor in chunks, add the changes in FP32, round to the stored type, write.

Memory use does not depend on the model's size: it is one chunk of a tensor and the factors of its products.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from export.checkpoint.weights.safetensors_index import StoredTensor, header_of
from export.checkpoint.weights.tensor_values import TORCH_TYPES
from export.lora.changes import Change, Offset
from export.lora.lora_file import LoraError, read_fp32

PIECE_ELEMENTS = 1 << 23  # 32 MiB of FP32


def write_merged_shard(
    tensors: Mapping[str, StoredTensor], changes: Mapping[str, Sequence[Change]], *, scale: float, target: Path
) -> None:
    """Write a shard with these tensors in their stored order and types, with `scale` times their changes added.

    Raises LoraError for a sum beyond the range of its type.
    """
    in_order = dict(sorted(tensors.items(), key=lambda item: item[1].offset))
    with target.open("wb") as file:
        file.write(header_of({name: (tensor.dtype, tensor.shape) for name, tensor in in_order.items()}, {}))
        for name, tensor in in_order.items():
            for piece in merged_pieces(name, tensor, changes=changes.get(name, ()), scale=scale):
                _write(file, piece)
        file.truncate()


def merged_pieces(name: str, tensor: StoredTensor, *, changes: Sequence[Change], scale: float) -> Iterator[Tensor]:
    """Yield a tensor's values in chunks of rows, in its stored type, with `scale` times the changes added.

    Raises LoraError for a sum beyond the range of its type.
    """
    if 0 in tensor.shape:
        return
    rows = tensor.shape[0] if tensor.shape else 1
    columns = math.prod(tensor.shape[1:])
    deltas = [(_delta_of(change, rows, columns), scale * change.factor) for change in changes]
    step = max(1, PIECE_ELEMENTS // columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        values = read_fp32(tensor, start=first * columns, count=count * columns)
        for delta, factor in deltas:
            values.add_(delta(first, count), alpha=factor)
        merged = values.to(TORCH_TYPES[tensor.dtype])
        if deltas:
            _check_finite(name, tensor, merged)
        yield merged


def _delta_of(change: Change, rows: int, columns: int) -> Callable[[int, int], Tensor]:
    """Return a function of (first, count): what a change adds to these rows, flat, in FP32, before its factor."""
    if isinstance(change, Offset):
        return lambda first, count: read_fp32(change.values, start=first * columns, count=count * columns)
    up, down = read_fp32(change.up).reshape(rows, -1), read_fp32(change.down).reshape(-1, columns)
    return lambda first, count: (up[first : first + count] @ down).reshape(-1)


def _check_finite(name: str, tensor: StoredTensor, merged: Tensor) -> None:
    if not all(map(math.isfinite, torch.aminmax(merged))):  # ten times as fast as isfinite() on each value
        raise LoraError(
            f"{name}: merged, it has values that are infinite or no numbers in {tensor.dtype}. The LoRA or the "
            "checkpoint is damaged, or the strength is too large: LORA_SCALE=1.0 is as it was trained."
        )


def _write(file: BinaryIO, piece: Tensor) -> None:
    """Append a chunk. A chunk of zeros becomes a hole, so that a dummy's weights take no disk space."""
    content = piece.view(torch.uint8).numpy()
    if content.any():
        file.write(content.data)
    else:
        file.seek(content.nbytes, 1)
