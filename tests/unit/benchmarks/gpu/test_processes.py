"""GPU memory by process."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import processes


def test_memory_is_told_by_the_model_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    row = processes.gpu_processes()
    assert row["used_mib"] == 2048
    assert row["processes"][0]["mib"] == 512 and row["processes"][0]["process"].startswith("python")
    assert row["processes"][1] == {"process": "of another namespace", "mib": None}


class FakeNvml:
    """NVIDIA's management library with this process on its GPU, and one that it knows nothing of."""

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=2048 * 2**20)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:  # noqa: N802
        own = SimpleNamespace(pid=os.getpid(), usedGpuMemory=512 * 2**20)
        return [own, SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)]
