"""ModelWatchdog expects the processes that a model's configuration names, whatever was counted."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from embedded.supervision import model_watchdog
from tests.unit.embedded.supervision.fake_triton import MODEL, NOBODY, FakeTriton, looking
from wan_t2v.contract import UNARY


@pytest.mark.parametrize(("backend", "is_loaded_again"), [("python", True), ("tensorrt", False)])
@pytest.mark.parametrize("living", [set(), {NOBODY}], ids=["none", "one"])
def test_a_model_that_lost_a_process_before_any_was_counted_is_loaded_again(
    triton: FakeTriton,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    living: set[int],
    backend: str,
    *,
    is_loaded_again: bool,
) -> None:
    """As one whose process was killed while others were loading: Triton 2.51 is ready all the same."""
    triton.backends = {MODEL: backend}
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: {1, 2} if triton.changes else living})
    watching = looking(triton, [], models)
    for _ in range(3):
        watching.check()
    assert triton.changes == ([f"unload {MODEL}", f"load {MODEL}"] if is_loaded_again else [])


def test_one_model_that_does_not_answer_for_its_configuration_hides_no_other(triton: FakeTriton, models: Path) -> None:
    triton.backends, triton.living, triton.stuck = {MODEL: "python", "prepare": "python"}, 1, {"prepare", UNARY}
    watching = looking(triton, [], models)
    watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]
    triton.stuck = set()
    watching.check()
    assert "unload prepare" in triton.changes, "it is asked again, and has no process"


def test_no_fewer_processes_are_expected_than_were_counted(
    triton: FakeTriton, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model with two versions, each with its own instances."""
    triton.backends = {MODEL: "python"}
    living = {NOBODY, NOBODY + 1, NOBODY + 2, NOBODY + 3}
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: living})
    watching = looking(triton, [], models)
    watching.check()
    living.pop()
    watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]


def test_a_model_that_is_loaded_later_is_asked_for_its_configuration_then(
    triton: FakeTriton, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an expert that takes turns with the other."""
    triton.backends, triton.states, triton.reason = {MODEL: "python"}, ["LOADING"], ""
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: {1, 2}} if triton.changes else {})
    watching = looking(triton, [], models)
    watching.check()
    assert triton.changes == []
    triton.states = ["READY"]
    watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]


def test_a_configuration_that_asks_for_fewer_counts_from_the_next_load_on(
    triton: FakeTriton, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a model whose operator took an instance away would be loaded again for ever."""
    triton.backends, living = {MODEL: "python"}, {NOBODY, NOBODY + 1, NOBODY + 2}
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: living})
    watching = looking(triton, [], models)
    watching.check()
    living.pop()
    for _ in range(3):
        watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]


def test_a_model_that_stays_short_of_processes_is_loaded_again_after_a_pause(
    triton: FakeTriton, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton.backends, now = {MODEL: "python"}, 0.0
    monkeypatch.setattr(model_watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: {NOBODY}})
    watching = looking(triton, [], models)
    for _ in range(3):
        watching.check()
    assert len(triton.changes) == 2
    now = model_watchdog.RETRY_S
    watching.check()
    assert len(triton.changes) == 4
