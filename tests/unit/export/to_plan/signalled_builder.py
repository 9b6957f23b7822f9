"""A build that is told to stop. `test_builder.py` runs these tests in a process of their own."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from export.to_plan import builder
from tests.fakes import small_graphs
from tests.unit.export.to_plan.test_builder import FINISHED, TOKENS, build


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal whose handler does nothing."""
    number: signal.Signals = request.param
    before = signal.signal(number, _ignore)
    yield number
    signal.signal(number, before)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Neither stops a build nor raises."""


def test_ctrl_c_and_sigterm_stop_a_build_and_leave_nothing(
    ignored: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitored = builder.progress_monitor

    def signalling(*arguments: Any) -> Any:
        signal.raise_signal(ignored)
        return monitored(*arguments)

    monkeypatch.setattr(builder, "progress_monitor", signalling)
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    with pytest.raises(KeyboardInterrupt):
        build(source, TOKENS, log=tmp_path / "build.log", timing_cache=tmp_path / "timing.cache")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "build.log", "timing.cache"}, "but timings"
    assert FINISHED not in (tmp_path / "build.log").read_text(), "TensorRT went on to the end"
    assert signal.getsignal(ignored) is _ignore
