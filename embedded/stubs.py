"""The Python processes of a running server: one stub for each instance of a Python model."""

from collections.abc import Iterable
from pathlib import Path

import psutil

STUB = "triton_python_backend_stub"


def stub_pids(server_pid: int) -> dict[str, set[int]]:
    """Living stub processes of the server, by model."""
    found: dict[str, set[int]] = {}
    try:
        children = psutil.Process(server_pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for child in children:
        model = _model_of(child)
        if model is not None:
            found.setdefault(model, set()).add(child.pid)
    return found


def models_short_of(expected: dict[str, int], living: dict[str, set[int]]) -> Iterable[str]:
    """Models with fewer processes than they had when the server was ready."""
    return sorted(model for model, count in expected.items() if len(living.get(model, ())) < count)


def _model_of(process: psutil.Process) -> str | None:
    try:
        command = process.cmdline()
        if len(command) < 2 or not command[0].endswith(STUB) or process.status() == psutil.STATUS_ZOMBIE:
            return None  # a process that is just being started may have a command line without arguments
    except psutil.NoSuchProcess:
        return None
    return Path(command[1]).parents[1].name  # <repository>/<model>/<version>/model.py
