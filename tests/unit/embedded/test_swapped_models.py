"""Repair loads again a model whose process died, and leaves alone one that is being swapped."""

from pathlib import Path

import pytest

from embedded import repair
from embedded.options import ServerOptions
from embedded.repair import Repair
from wan_t2v.operate.processes import model_of

MODEL = "low_noise_expert"


def watched(monkeypatch: pytest.MonkeyPatch, *, ready: list[bool], living: int) -> bool:
    """What it concludes of two expected processes; Triton's answers are given in their order."""
    monkeypatch.setattr(repair, "stub_pids", lambda pid: {MODEL: {0, 1}})
    looking = Repair(ServerOptions(), 1, run_directory=Path(), report=lambda event: None)
    monkeypatch.setattr(repair, "stub_pids", lambda pid: {MODEL: set(range(living))})
    monkeypatch.setattr(Repair, "_is_loaded", lambda self, model: ready.pop(0))
    return looking.lost_a_process(MODEL)


def test_a_loaded_model_without_its_processes_lost_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, ready=[True, True], living=1)


@pytest.mark.parametrize(
    ("ready", "living"),
    [
        ([False], 0),  # unloaded
        ([True], 2),  # loaded since the processes were first counted
        ([True, False], 0),  # unloaded while they were counted again
    ],
)
def test_a_model_that_is_being_swapped_lost_nothing(
    ready: list[bool], living: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not watched(monkeypatch, ready=ready, living=living)


@pytest.mark.parametrize("command", [[], ["/x/triton_python_backend_stub"], ["/usr/bin/python3", "x"]])
def test_a_process_that_is_being_started_is_no_models_yet(command: list[str]) -> None:
    assert model_of(command) is None
