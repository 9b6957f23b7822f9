"""The run directory of the server that a model's process belongs to."""

import contextlib
import os
from pathlib import Path

from wan_t2v.operate.gpu_fault import mark_gpu_fault
from wan_t2v.operate.run_directory import RunDirectory, RunDirectoryError, chosen_path, server_identity
from wan_t2v.serving.python_backend.parameters import ModelParameters

_GPU_FAULT = "cannot answer at the moment, try again: the GPU failed, and the server must be started again"
_STUB, _SERVER = "triton_python_backend_stub", 5  # the server's id on the stub's command line, seen in 2.51
_of_process: list[RunDirectory] = []  # one or none: each process runs one model


def server_run_directory(parameters: ModelParameters) -> RunDirectory:
    """Open the directory of the parameter `run_directory`, else of the environment. Raises RunDirectoryError."""
    path = parameters.optional_path("run_directory") or chosen_path()
    run = RunDirectory.of_server(path, server_pid(Path("/proc/self/cmdline")))
    _of_process[:] = [run]
    return run


def server_pid(command_line: Path) -> int:
    """Return the id of the server that started this process, which has this command line.

    Raises RunDirectoryError if that server has ended: the parent is then another process, such as init, which would
    own the directory for ever.
    """
    words, parent = command_line.read_text(encoding="utf-8", errors="replace").split("\0"), os.getppid()
    if Path(words[0]).name == _STUB and words[_SERVER : _SERVER + 1] not in ([], [str(parent)]):
        raise RunDirectoryError(f"the server {words[_SERVER]} that started this process has ended")
    return parent


def report_gpu_fault(message: str) -> str:
    """Mark the server as one that can use its GPU no more. Returns the message for callers, in one line."""
    fault = " ".join(message.split())
    for run in _of_process:
        with contextlib.suppress(OSError):
            if run.server() == server_identity(os.getppid()):  # else its server is gone, and another one has begun
                mark_gpu_fault(run, fault)
    return fault if fault.startswith(_GPU_FAULT) else f"{_GPU_FAULT} ({fault})"
