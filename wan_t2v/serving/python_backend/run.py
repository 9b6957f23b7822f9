"""The run directory of the server that a model's process belongs to."""

import contextlib
import os

from wan_t2v.operate.gpu_fault import mark_gpu_fault
from wan_t2v.operate.run_directory import RunDirectory, chosen_path, server_identity
from wan_t2v.serving.python_backend.parameters import ModelParameters

_GPU_FAULT = "cannot answer at the moment, try again: the GPU failed, and the server must be started again"
_of_process: list[RunDirectory] = []  # one or none: each process runs one model


def server_run_directory(parameters: ModelParameters) -> RunDirectory:
    """Open the directory of the parameter `run_directory`, else of the environment. Raises RunDirectoryError."""
    run = RunDirectory.of_server(parameters.optional_path("run_directory") or chosen_path(), os.getppid())
    _of_process[:] = [run]
    return run


def report_gpu_fault(message: str) -> str:
    """Mark the server as one that can use its GPU no more. Returns the message for callers, in one line."""
    fault = " ".join(message.split())
    for run in _of_process:
        with contextlib.suppress(OSError):
            if run.server() == server_identity(os.getppid()):  # else its server is gone, and another one has begun
                mark_gpu_fault(run, fault)
    return fault if fault.startswith(_GPU_FAULT) else f"{_GPU_FAULT} ({fault})"
