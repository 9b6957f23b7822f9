"""Weights of a torch program that lie beside it, in the `.safetensors` files of a large checkpoint.

Such a program holds no weights: its parameters have a type and a shape but no storage (torch's `meta` device). They are
read from mapped files straight to the engine's device, so the host's memory never holds them all.
"""

import hashlib
import math
import mmap
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORED_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAMPLE_BYTES = 4096
AGAIN = (
    "Run `python -m export.to_torch_program --checkpoint FOLDER` again with the options that made the program: "
    "others make other programs."
)


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
                raise _missing(path)
            if _describe(path, _of_file(name, self.tensors), nbytes=described.nbytes) != described:
                raise ValueError(
                    f"{path.resolve()} is not the file that the program in {folder} was made for: it was changed, or "
                    f"copied in part. {AGAIN}"
                )

    def read(self, folder: Path, parameters: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Read the values of `parameters` to `device`, in each parameter's type. On the CPU they stay in mapped files.

        Parameters of one stored tensor share their values, as a tied embedding does. Raises ValueError for a parameter
        that no file has, or has in another shape.
        """
        mapped = {name: _mapped(folder / name) for name in self.files}
        read: dict[tuple[StoredWeight, torch.dtype], Tensor] = {}
        values = {}
        for name, wanted in parameters.items():
            weight = self._place_of(name, wanted)
            key = weight, wanted.dtype
            if key not in read:
                read[key] = _values(mapped[weight.file], weight).to(device=device, dtype=wanted.dtype)
            values[name] = read[key]
        return values

    def _place_of(self, name: str, wanted: Tensor) -> StoredWeight:
        weight = self.tensors.get(name)
        if weight is None or weight.shape != tuple(wanted.shape):
            found = "no file has it" if weight is None else f"its file has the shape {weight.shape}"
            raise ValueError(f"{name} of the program has the shape {tuple(wanted.shape)}, and {found}")
        return weight


def _missing(path: Path) -> FileNotFoundError:
    if path.is_symlink():
        fault = (
            f"{path} is a link to {path.readlink()}, which is not there: the checkpoint was moved, or is not mounted"
        )
    else:
        fault = f"{path} is missing"
    return FileNotFoundError(f"{fault}. It holds weights of the program beside it. {AGAIN}")


def _mapped(path: Path) -> Tensor:
    """Map a file read-only, as bytes. A private writable mapping would need as much free memory as the file has."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's note that the bytes cannot be written
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.uint8)


def _values(mapped: Tensor, weight: StoredWeight) -> Tensor:
    """Return a view of a stored tensor, or a copy where a view of its type would not be aligned."""
    values, dtype = mapped[weight.offset : weight.offset + weight.nbytes], STORED_TYPES[weight.dtype]
    if weight.offset % dtype.itemsize:  # not every writer pads its header
        values = values.clone()
    return values.view(dtype).reshape(weight.shape)


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
