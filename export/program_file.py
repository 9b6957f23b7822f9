"""Trace a module to a `torch.export` program, and write the program's archive atomically."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from export.atomic import write_atomically
from export.graphs.registry import ExampleCall
from export.interruption import Interrupted, interruptible
from wan_t2v.engines.torch_program import NAMES_FILE


def write_program(module: nn.Module, call: ExampleCall, path: Path) -> Path:
    """Trace `module` with the dynamic axes of `call`, write the program to `path` atomically, and return `path`."""
    return save_program(trace_program(module, call), call, path)


def trace_program(module: nn.Module, call: ExampleCall) -> torch.export.ExportedProgram:
    """Trace `module` with the dynamic axes of `call`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes about torch's own internals
        return torch.export.export(module, call.inputs, dynamic_shapes=_axes(call.dynamic_shapes), strict=False)


def save_program(
    program: torch.export.ExportedProgram, call: ExampleCall, path: Path, *, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write a program atomically with the names of its tensors and `extra`, and return `path`."""
    names = json.dumps({"inputs": call.input_names, "outputs": call.output_names, **(extra or {})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with write_atomically(path) as partial, partial.open("wb") as file:  # torch rejects a path without .pt2
            _save(program, file, names)
    return path


def _save(program: torch.export.ExportedProgram, file: BinaryIO, names: str) -> None:
    """Write a program with the names of its tensors. Raises OSError or KeyboardInterrupt after torch's writer ended."""
    with interruptible() as interrupted:
        guarded: Any = _GuardedFile(file, interrupted)
        torch.export.save(program, guarded, extra_files={NAMES_FILE: names})
    if guarded.error is not None:
        raise guarded.error


class _GuardedFile(io.RawIOBase):
    """File for torch's writer, in which an exception would end the process.

    An OSError, such as for a full disk, is kept in `.error`. After it, or after Ctrl-C, nothing more is written.
    """

    def __init__(self, file: BinaryIO, interrupted: Interrupted) -> None:
        self._file, self._interrupted = file, interrupted
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # torch demands it, and seeks to the start at the end

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0 if self.error or self._interrupted.requested else self._file.seek(offset, whence)

    def write(self, data: Any) -> int:
        if self.error is None and not self._interrupted.requested:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def _axes(spec: Any) -> Any:
    """Convert dynamic axes to torch.export's: a named axis must stay dynamic, or the trace fails.

    Axes that depend on named ones are left to torch.
    """
    if isinstance(spec, dict):
        return {axis: torch.export.Dim.DYNAMIC if isinstance(wanted, str) else wanted for axis, wanted in spec.items()}
    return tuple(_axes(part) for part in spec)
