"""ModelWatchdog loads again a model whose process died, on 2.51 and on 2.71, and leaves alone one that is being swapped."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embedded.options import ServerOptions
from embedded.supervision import model_watchdog
from embedded.supervision.model_watchdog import ModelWatchdog
from tests.unit.embedded.supervision.fake_triton import MODEL, FakeTriton, looking
from wan_t2v.contract import STREAM, UNARY
from wan_t2v.operate.processes import model_of


def test_a_model_with_a_dead_process_is_loaded_again(triton: FakeTriton, models: Path) -> None:
    events: list[dict[str, Any]] = []
    watching = looking(triton, events, models)
    watching.check()
    assert triton.changes == []
    triton.living = 1
    watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]
    assert [event["event"] for event in events] == ["died", "repaired"]
    watching.check()
    assert len(triton.changes) == 2


def test_a_process_that_died_before_the_watchdog_was_made_is_missed(triton: FakeTriton, models: Path) -> None:
    """The supervisor counts them before it tells that the server is ready."""
    options = ServerOptions(grpc_port=triton.port, repository=models)
    triton.living = 1
    watching = ModelWatchdog(options, os.getpid(), run_directory=models, report=lambda event: None, expected={MODEL: 2})
    watching.check()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]


def test_a_model_that_somebody_unloaded_is_loaded_again(triton: FakeTriton, models: Path) -> None:
    events: list[dict[str, Any]] = []
    watching = looking(triton, events, models)
    triton.states, triton.living = ["UNAVAILABLE"], 0
    watching.check()
    watching.check()
    assert triton.changes == [f"load {MODEL}"]
    assert [(event["event"], event["model"]) for event in events] == [("unloaded", MODEL), ("repaired", MODEL)]


def test_a_model_that_this_server_is_not_to_have_stays_unloaded(triton: FakeTriton, models: Path) -> None:
    options = ServerOptions(grpc_port=triton.port, repository=models, models=("prepare",))
    watching = ModelWatchdog(options, os.getpid(), run_directory=models, report=lambda event: None)
    triton.states, triton.living = ["UNAVAILABLE"], 0
    watching.check()
    assert triton.changes == []


@pytest.mark.parametrize("state", ["UNLOADING", "LOADING"])
def test_a_model_on_its_way_is_left_alone(state: str, triton: FakeTriton, models: Path) -> None:
    watching = looking(triton, [], models)
    triton.states, triton.living = [state], 0
    watching.check()
    assert triton.changes == []


def test_the_ensemble_is_loaded_last_when_nothing_is_on_its_way(triton: FakeTriton, models: Path) -> None:
    """It goes with the model that it needs; to load it too early would load all of its models anew."""
    watching = looking(triton, [], models)
    triton.ensemble, triton.living = "UNAVAILABLE", 0
    for state in ("UNLOADING", "UNAVAILABLE", "READY"):
        triton.states = [state]
        watching.check()
    assert triton.changes == [f"load {MODEL}", f"load {UNARY}"]


def test_an_expert_that_the_denoiser_swaps_out_stays_so(triton: FakeTriton, models: Path) -> None:
    """Between two clips it holds no lock, and one expert is unloaded all the same."""
    watching = looking(triton, [], models)
    triton.residency, triton.states, triton.living = "one_at_a_time", ["UNAVAILABLE"], 0
    watching.check()
    assert triton.changes == []


@pytest.mark.parametrize(("residency", "changes"), [("", [f"load {MODEL}"]), ("one_at_a_time", [])])
def test_on_a_server_of_the_streaming_endpoint_alone_its_own_loop_says_whether_experts_are_swapped(
    residency: str, changes: list[str], triton: FakeTriton, models: Path
) -> None:
    (models / STREAM).mkdir()
    (models / STREAM / "config.pbtxt").touch()
    triton.loops, triton.residency = (STREAM,), residency
    watching = looking(triton, [], models)
    triton.states, triton.living = ["UNAVAILABLE"], 0
    watching.check()
    assert triton.changes == changes


def test_a_model_that_failed_to_load_at_somebody_elses_wish_is_left_alone(triton: FakeTriton, models: Path) -> None:
    watching = looking(triton, [], models)
    triton.states, triton.living, triton.reason = ["UNAVAILABLE"], 0, "no such file"
    watching.check()
    assert triton.changes == []


def test_a_load_that_failed_is_tried_again(triton: FakeTriton, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    watching = looking(triton, events, models)
    now = 0.0
    monkeypatch.setattr(model_watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    triton.states, triton.living, triton.fails_to_load = ["UNAVAILABLE"], 0, True
    watching.check()
    watching.check()
    triton.fails_to_load, now = False, model_watchdog.RETRY_S
    watching.check()
    assert [event["event"] for event in events] == ["unloaded", "not repaired", "unloaded", "repaired"]
    assert triton.states == ["READY"]


@pytest.mark.parametrize(
    ("states", "living"),
    [
        (["READY", "READY"], 2),  # loaded since the processes were first counted
        (["READY", "UNLOADING"], 0),  # unloaded while they were counted again
    ],
)
def test_a_model_that_is_being_swapped_lost_nothing(states: list[str], living: int, triton: FakeTriton) -> None:
    watching = looking(triton, [])
    triton.states, triton.living = states, living
    assert not watching.lost_a_process(MODEL)


def test_a_server_that_does_not_answer_has_nothing_to_repair(triton: FakeTriton) -> None:
    options = ServerOptions(grpc_port=9)
    watching = ModelWatchdog(options, os.getpid(), run_directory=Path(), report=lambda event: None)
    triton.living = 0
    assert not watching.lost_a_process(MODEL)


def test_the_index_is_asked_with_the_key_and_without_a_proxy(
    triton: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    options = ServerOptions(grpc_port=triton.port)
    monkeypatch.setattr(ServerOptions, "admin_header", {"triton-grpc-protocol-admin-key": options.admin_key})
    watching = ModelWatchdog(options, os.getpid(), run_directory=tmp_path, report=lambda event: None)
    triton.living = 1
    assert watching.lost_a_process(MODEL)
    assert triton.headers[0]["triton-grpc-protocol-admin-key"] == options.admin_key


@pytest.mark.parametrize("command", [[], ["/x/triton_python_backend_stub"], ["/usr/bin/python3", "x"]])
def test_a_process_that_is_being_started_is_no_models_yet(command: list[str]) -> None:
    assert model_of(command) is None
