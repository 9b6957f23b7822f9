"""BF16 copies of the experts' shards, for checkpoints stored in FP32: 28.6 GB per expert instead of 57.

A BF16 graph that refers to FP32 shards has a Cast after each weight, and TensorRT reads every weight in FP32 during the
build. The copies are in `<checkpoint>/experts-bf16/`, with the graphs beside them. Each shard is copied in chunks, so
memory use is small, and is written atomically: after an interruption, finished copies are kept.
"""

import hashlib
import json
import logging
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from export.atomic import remove_abandoned, write_atomically
from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.meta_module import is_fp32_island, shell_of
from export.checkpoint.weights.safetensors_index import BYTES_OF, StoredTensor, header_of, read_sample, stored_tensors
from export.checkpoint.weights.tensor_values import TORCH_TYPES
from export.disk_space import DiskNeed

logger = logging.getLogger(__name__)

FOLDER = "experts-bf16"
CHUNK_ELEMENTS = 1 << 24  # 64 MiB of FP32
_SOURCE = "source_sha256"  # in the header's metadata: digest of the source shard


def bf16_folder(checkpoint: Path) -> Path:
    """Return the folder of the copies. Its layout is that of a checkpoint with only the two experts."""
    return checkpoint / FOLDER


def write_bf16_shards(checkpoint: Path) -> Path:
    """Write missing and stale copies, and return their folder. Raises CheckpointError for damaged shards."""
    for shard in _shards(checkpoint):
        if not shard.is_current:
            shard.write()
            logger.info("wrote %s", shard.target)
    for component in EXPERT_COMPONENTS:
        for source in sorted((checkpoint / component).glob("*.json")):  # config.json, and the index of the shards
            with write_atomically(bf16_folder(checkpoint) / component / source.name) as partial:
                shutil.copyfile(source, partial)
    return bf16_folder(checkpoint)


def bf16_shards_need(checkpoint: Path) -> DiskNeed:
    """Return the disk space of the copies that are missing or stale. Raises CheckpointError for damaged shards."""
    missing = sum(shard.target_bytes for shard in _shards(checkpoint) if not shard.is_current)
    return DiskNeed(checkpoint, missing, "BF16 copies of the experts' shards")


class _Shard:
    """One shard of an expert and its copy. `types` has the type of each tensor in the copy."""

    def __init__(self, tensors: Mapping[str, StoredTensor], types: Mapping[str, str], target: Path) -> None:
        self.tensors = dict(sorted(tensors.items(), key=lambda item: item[1].offset))
        self.types = types
        self.target = target

    @property
    def target_bytes(self) -> int:
        """Bytes of the copy's tensors."""
        return sum(_elements(tensor) * BYTES_OF[self.types[name]] for name, tensor in self.tensors.items())

    @property
    def is_current(self) -> bool:
        """Whether the copy exists in full length and was made from this shard."""
        try:
            with self.target.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
                whole = self.target.stat().st_size == file.tell() + self.target_bytes
        except (OSError, ValueError, struct.error):
            return False
        return whole and bool(header.get("__metadata__", {}).get(_SOURCE) == self._digest())

    def write(self) -> None:
        """Write the copy atomically."""
        header = header_of(
            {name: (self.types[name], tensor.shape) for name, tensor in self.tensors.items()},
            {_SOURCE: self._digest()},
        )
        remove_abandoned(self.target)
        with write_atomically(self.target) as partial, partial.open("wb") as file:
            file.write(header)
            for name, tensor in self.tensors.items():
                _copy(tensor, file, TORCH_TYPES[self.types[name]])

    def _digest(self) -> str:
        """Hash the names, shapes, source and target types, and the first 4 KiB of every tensor."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.dtype} {self.types[name]} {tensor.shape} {tensor.offset}".encode())
            digest.update(read_sample(tensor))
        return digest.hexdigest()


def _shards(checkpoint: Path) -> Iterator[_Shard]:
    for component in EXPERT_COMPONENTS:
        shell = shell_of(checkpoint, component)
        stored = stored_tensors(checkpoint, component)
        for path in sorted({tensor.path for tensor in stored.values()}):
            tensors = {name: tensor for name, tensor in stored.items() if tensor.path == path}
            types = {name: "F32" if is_fp32_island(shell, name) else "BF16" for name in tensors}
            yield _Shard(tensors, types, bf16_folder(checkpoint) / component / path.name)


def _copy(tensor: StoredTensor, target: BinaryIO, dtype: torch.dtype) -> None:
    """Append the tensor's values to `target` in another type, in chunks. Rounding is to nearest, ties to even."""
    itemsize = BYTES_OF[tensor.dtype]
    with tensor.path.open("rb") as source:
        source.seek(tensor.offset)
        for start in range(0, _elements(tensor), CHUNK_ELEMENTS):
            count = min(CHUNK_ELEMENTS, _elements(tensor) - start)
            values = torch.frombuffer(bytearray(source.read(count * itemsize)), dtype=TORCH_TYPES[tensor.dtype])
            target.write(values.to(dtype).view(torch.uint8).numpy().tobytes())


def _elements(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape)
