"""LoRA safetensors file: header, hash and alpha. Tensors are read when they are needed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoint.config_file import CheckpointError, check_is_downloaded, check_is_no_pointer, unreadable
from export.checkpoint.weights.safetensors_index import StoredTensor, metadata_of_file, tensors_of_file
from export.checkpoint.weights.tensor_values import TORCH_TYPES
from export.errors import ExpectedError
from export.lora.alpha import AdapterConfig, adapter_config
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.manifests import MergedLora

# Some programs save alpha, which is one number, as an integer.
_ALPHA_TYPES = {"I64": torch.int64, "I32": torch.int32, "F64": torch.float64}
_READABLE = {**TORCH_TYPES, **_ALPHA_TYPES}


class LoraError(ExpectedError):
    """A LoRA that cannot be merged. The message has the file, the tensors, what is accepted, and the remedy."""


@dataclass(frozen=True)
class LoraFile:
    """An opened LoRA file. `config` is alpha as stated outside the tensors, None if it is not."""

    path: Path
    sha256: str
    tensors: Mapping[str, StoredTensor]
    config: AdapterConfig | None

    @classmethod
    def open(cls, path: Path) -> "LoraFile":
        """Read the header and hash the file. Raises LoraError."""
        _check_kind(path)
        try:
            check_is_downloaded(path)
            check_is_no_pointer(path)
            tensors = tensors_of_file(
                path, bytes_of={name: dtype.itemsize for name, dtype in _READABLE.items()}, other_type=_other_type
            )
            _check_types(path, tensors)
            config = adapter_config(path, metadata_of_file(path))
        except OSError as error:
            raise LoraError(str(unreadable(path, error))) from None
        except CheckpointError as error:
            raise LoraError(str(error)) from None
        if not tensors:
            raise LoraError(f"{path} holds no tensors. Take the file of the LoRA's weights.")
        return cls(path, sha256_of_file(path), tensors, config)

    def record(self, scale: float) -> MergedLora:
        """Return the entry for `merged_loras.json` and manifests; `scale` is the strength of the merge."""
        return MergedLora(self.path.name, self.sha256, scale, self.config.sha256 if self.config else None)


def read_fp32(tensor: StoredTensor, *, start: int = 0, count: int | None = None) -> Tensor:
    """Read a tensor's values as a flat FP32 tensor: all, or `count` values from index `start`."""
    elements = math.prod(tensor.shape) - start if count is None else count
    itemsize = _READABLE[tensor.dtype].itemsize
    content = bytearray(elements * itemsize)
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset + start * itemsize)
        file.readinto(content)
    return torch.frombuffer(content, dtype=_READABLE[tensor.dtype]).to(torch.float32)


def _check_types(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse a type that only alpha may have in another tensor. Raises CheckpointError."""
    for name, tensor in tensors.items():
        is_alpha = name.endswith(".alpha") and math.prod(tensor.shape) == 1
        if tensor.dtype in _ALPHA_TYPES and not is_alpha:
            raise CheckpointError(_other_type(str(path), name, tensor.dtype, tensors))


def _other_type(path: str, name: str, dtype: str, names: Mapping[str, object]) -> str:
    return f"{path}: {name} is stored as {dtype}, accepted: {', '.join(TORCH_TYPES)}. Save the LoRA in one of these."


def _check_kind(path: Path) -> None:
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.safetensors"))
        raise LoraError(f"{path} is a folder. Name the file in it: {', '.join(inside) or 'it has no .safetensors'}.")
    if not path.exists():
        raise LoraError(f"{path} is missing: no such file. LORA_HIGH and LORA_LOW name .safetensors files, or `none`.")
    if path.suffix != ".safetensors":
        raise LoraError(
            f"{path} is no .safetensors file, and pickled weights are not read, since loading them runs code. "
            "Save the tensors with safetensors."
        )
