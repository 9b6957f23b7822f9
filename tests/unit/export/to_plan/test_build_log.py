"""Progress of a build: what TensorRT may call, in any order, and no exception that would cancel the build."""

from types import SimpleNamespace
from typing import Any

import pytest

from export.interruption import Interrupted
from export.to_plan import build_log
from export.to_plan.build_log import progress_monitor

TRT = SimpleNamespace(IProgressMonitor=object)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bars that were made; they draw nothing."""
    made: list[Any] = []

    class Bar(build_log.tqdm):  # type: ignore[misc, type-arg]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": False, "file": SimpleNamespace(write=len, flush=lambda: None)})
            made.append(self)

    monkeypatch.setattr(build_log, "tqdm", Bar)
    return made


def test_the_outermost_phase_is_counted_to_its_end(bars: list[Any]) -> None:
    monitor = progress_monitor(TRT, "expert", Interrupted())
    monitor.phase_start("build", None, 4)
    monitor.phase_start("tactics", "build", 9)
    assert monitor.step_complete("tactics", 7) and monitor.step_complete("build", 1)
    monitor.phase_finish("tactics")
    assert [bar.n for bar in bars] == [2]
    monitor.phase_finish("build")
    assert [(bar.n, bar.desc.rstrip(": ")) for bar in bars] == [(4, "expert")]


def test_phases_of_one_name_may_overlap_and_go_on_after_the_first_has_ended(bars: list[Any]) -> None:
    """Such as two subgraphs that are timed at once."""
    monitor = progress_monitor(TRT, "expert", Interrupted())
    for _ in range(2):
        monitor.phase_start("tactics", None, 4)
    monitor.phase_finish("tactics")
    assert monitor.step_complete("tactics", 2)
    assert [bar.n for bar in bars] == [3]
    monitor.phase_finish("tactics")
    assert [bar.n for bar in bars] == [4]


def test_no_order_of_calls_raises(bars: list[Any]) -> None:
    monitor = progress_monitor(TRT, "expert", Interrupted())
    assert monitor.step_complete("never started", 0)
    monitor.phase_finish("never started")
    monitor.phase_start("build", None, 1)
    for _ in range(2):
        monitor.phase_finish("build")
    assert monitor.step_complete("build", 0)
    monitor.phase_start("next", None, 1)
    assert len(bars) == 2


def test_a_bar_that_cannot_be_drawn_does_not_end_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a terminal that was closed."""

    def closed(**options: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(build_log, "tqdm", closed)
    interrupted = Interrupted()
    monitor = progress_monitor(TRT, "expert", interrupted)
    monitor.phase_start("build", None, 1)
    assert monitor.step_complete("build", 0)
    monitor.phase_finish("build")
    interrupted.requested = True
    assert not monitor.step_complete("build", 0), "Ctrl-C stops it all the same"
