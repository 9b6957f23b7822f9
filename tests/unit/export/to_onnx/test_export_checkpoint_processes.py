"""The processes that export graphs side by side."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from export.to_onnx.check import GraphError
from export.to_onnx.export_checkpoint import _write_all
from export.to_onnx.graph_export import ExportSettings, GraphExport


@dataclass(frozen=True)
class ExportOfThreads:
    """A graph's export that writes the number of its process's threads."""

    folder: Path
    graph: str
    settings: ExportSettings

    def write(self) -> Any:
        (self.folder / self.graph).write_text(str(torch.get_num_threads()))


def test_a_process_has_one_thread_and_does_not_wait_for_the_cores_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    export = ExportOfThreads(tmp_path, "threads", ExportSettings())
    _write_all([cast(GraphExport, export)], lambda _: None)
    assert (tmp_path / "threads").read_text() == "1"


class KilledExport(ExportOfThreads):
    """A graph's export whose process the system kills."""

    def write(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_the_system_kills_is_told_with_the_remedy(tmp_path: Path) -> None:
    export = KilledExport(tmp_path, "threads", ExportSettings())
    with pytest.raises(GraphError, match="was killed, most often by the system for lack of memory.*--jobs 1"):
        _write_all([cast(GraphExport, export)], lambda _: None)
