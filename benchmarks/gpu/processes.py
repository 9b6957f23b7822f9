"""GPU memory per process, from NVIDIA's management library (NVML)."""

import contextlib
from pathlib import Path
from typing import Any

from benchmarks.gpu.timing import Row, Skipped


def gpu_processes() -> Row:
    """Return the MiB in use on the first GPU, in total and per process with the model that it runs. Raises Skipped."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:
        raise Skipped(f"{error}: pip install nvidia-ml-py, on a machine with a driver") from error
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    processes = [
        {"process": _program_name(process.pid), "mib": _mib(process.usedGpuMemory)}
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    ]
    return {"used_mib": _mib(pynvml.nvmlDeviceGetMemoryInfo(gpu).used), "processes": processes}


def _mib(count: int | None) -> int | None:
    """Convert bytes to MiB. None for None, since the driver may not report a process's memory."""
    return None if count is None else round(count / 2**20)


def _program_name(pid: Any) -> str:
    """Return the model of a Python backend stub, else the program's name."""
    command: list[str] = []
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    models = [Path(part).parents[1].name for part in command if part.endswith("/model.py")]
    return (models or [Path(command[0]).name if command else "of another namespace"])[0]
