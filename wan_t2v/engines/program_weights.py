"""Weights of a torch program that lie beside it, in the `.safetensors` files of a large checkpoint.

Such a program holds no weights: its parameters have a type and a shape but no storage (torch's `meta` device). They are
read from mapped files straight to the engine's device, so the host's memory never holds them all.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORED_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAMPLE_BYTES = 4096
COMMAND = "python -m export.to_torch_program"


@dataclass(frozen=True)
class StoredWeight:
    """One tensor in a file: type by safetensors' name, shape, and offset in bytes from the start of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * STORED_TYPES[self.dtype].itemsize


@dataclass(frozen=True)
class WeightsFile:
    """Size of a file, and one SHA-256 over the first 4 KiB of each tensor that the program reads from it.

    Hashing all of an expert's 28 to 57 GB would take longer than loading it. Samples tell one expert from the other and
    one checkpoint from the next. They do not detect a damaged byte elsewhere.
    """

    nbytes: int
    sample_sha256: str


@dataclass(frozen=True)
class ProgramWeights:
    """Place of each parameter of a program, and the files that must lie beside it."""

    tensors: Mapping[str, StoredWeight]
    files: Mapping[str, WeightsFile]

    @classmethod
    def of_files(cls, folder: Path, tensors: Mapping[str, StoredWeight]) -> "ProgramWeights":
        """Describe the files in `folder` that hold `tensors`. Raises OSError for a file that cannot be read."""
        names = sorted({weight.file for weight in tensors.values()})
        return cls(tensors, {name: _describe(folder / name, _of_file(name, tensors)) for name in names})

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "ProgramWeights":
        """Read the form of `to_json`. Raises KeyError or TypeError for another form."""
        tensors = {
            name: StoredWeight(**{**weight, "shape": tuple(weight["shape"])}) for name, weight in raw["tensors"].items()
        }
        return cls(tensors, {name: WeightsFile(**file) for name, file in raw["files"].items()})

    def to_json(self) -> dict[str, Any]:
        """The description as JSON's types."""
        return asdict(self)

    def check(self, folder: Path) -> None:
        """Compare the files in `folder` with their description.

        Raises FileNotFoundError for a missing file, and ValueError for one of another size or with other samples.
        """
        for name, described in self.files.items():
            path = folder / name
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is missing, which holds weights of the program. Run `{COMMAND}` again."
                )
            if _describe(path, _of_file(name, self.tensors), nbytes=described.nbytes) != described:
                raise ValueError(
                    f"{path} is not the file that the program was made for: it was changed, or copied in part. "
                    f"Run `{COMMAND}` again."
                )

    def read(self, folder: Path, parameters: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Read the values of `parameters` to `device`, in each parameter's type. On the CPU they stay in mapped files.

        Raises ValueError for a parameter that no file has, or has in another shape.
        """
        mapped = {
            name: torch.from_file(str(folder / name), shared=False, size=file.nbytes, dtype=torch.uint8)
            for name, file in self.files.items()
        }
        return {name: self._read(name, mapped, wanted=wanted, device=device) for name, wanted in parameters.items()}

    def _read(self, name: str, mapped: Mapping[str, Tensor], *, wanted: Tensor, device: torch.device) -> Tensor:
        weight = self.tensors.get(name)
        if weight is None or weight.shape != tuple(wanted.shape):
            found = "no file has it" if weight is None else f"its file has the shape {weight.shape}"
            raise ValueError(f"{name} of the program has the shape {tuple(wanted.shape)}, and {found}")
        values = mapped[weight.file][weight.offset : weight.offset + weight.nbytes]
        dtype = STORED_TYPES[weight.dtype]
        if weight.offset % dtype.itemsize:  # a view of another type must be aligned; not every writer pads its header
            values = values.clone()
        return values.view(dtype).reshape(weight.shape).to(device=device, dtype=wanted.dtype)


def _of_file(name: str, tensors: Mapping[str, StoredWeight]) -> list[StoredWeight]:
    return sorted((weight for weight in tensors.values() if weight.file == name), key=lambda weight: weight.offset)


def _describe(path: Path, weights: Iterable[StoredWeight], *, nbytes: int | None = None) -> WeightsFile:
    """Describe a file. If it does not have `nbytes`, nothing is read and the samples' hash is empty."""
    size = path.stat().st_size
    if nbytes not in (None, size):
        return WeightsFile(size, "")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for weight in weights:
            digest.update(f"{weight.dtype} {weight.shape} {weight.offset}".encode())
            file.seek(weight.offset)
            digest.update(file.read(min(weight.nbytes, SAMPLE_BYTES)))
    return WeightsFile(size, digest.hexdigest())
