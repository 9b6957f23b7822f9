"""ModelWatchdog loads again a model whose process died, on 2.51 and on 2.71, and leaves alone one that is being swapped."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from embedded.options import ServerOptions
from embedded.supervision import model_watchdog
from embedded.supervision.model_watchdog import ModelWatchdog
from wan_t2v.contract import STREAM, UNARY
from wan_t2v.operate.processes import model_of

MODEL = "low_noise_expert"
NOBODY = 2**23  # the first process id that no process can have, since an orphan's process is looked at


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's answers about one model with two processes, as both versions were seen to give them.

    `states` are those of the index in their order, the last one for ever. Readiness of a model with a dead process is
    true on 2.51 and false on 2.71; of one that is not loaded it is false on 2.51 and an error on 2.71. A model of
    `backends` has two instances in its configuration; one of `stuck` does not answer for it.
    """

    is_271: bool
    states: list[str]
    living: int
    ensemble: str = "READY"
    residency: str = ""
    reason: str = "unloaded"
    fails_to_load: bool = False
    loops: tuple[str, ...] = ("denoiser",)
    backends: dict[str, str] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    port: int = 0
    changes: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.headers.append(dict(context.invocation_metadata()))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        models = [
            {"name": MODEL, "version": "1", "state": state, "reason": "" if state == "READY" else self.reason},
            {"name": "prepare", "version": "1", "state": "READY"},
            {"name": UNARY, "version": "1", "state": self.ensemble, "reason": "unloaded"},
            {"name": "tensor_check", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        ]
        return service_pb2.RepositoryIndexResponse(models=models)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.name in self.stuck:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if request.name not in self.loops and request.name not in self.backends:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        answer = service_pb2.ModelConfigResponse()
        answer.config.backend = self.backends.get(request.name, "")
        answer.config.instance_group.add(count=2)
        if self.residency:
            answer.config.parameters["expert_residency"].string_value = self.residency
        return answer

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.is_271 and self.states[0] != "READY":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{MODEL}' has no available versions")
        ready = self.states[0] == "READY" and (self.living == 2 or not self.is_271)
        return service_pb2.ModelReadyResponse(ready=ready)

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.changes.append(f"unload {request.model_name}")
        self.states = ["UNAVAILABLE"]
        return service_pb2.RepositoryModelUnloadResponse()

    def RepositoryModelLoad(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.changes.append(f"load {request.model_name}")
        if request.model_name == UNARY:
            self.ensemble = "READY"
            return service_pb2.RepositoryModelLoadResponse()
        if self.fails_to_load:
            self.reason = "no such file"
            context.abort(grpc.StatusCode.INTERNAL, self.reason)
        self.states, self.living = ["READY"], 2
        return service_pb2.RepositoryModelLoadResponse()


@pytest.fixture(params=["2.51", "2.71"])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    fake = FakeTriton(request.param == "2.71", ["READY"], living=2)
    monkeypatch.setattr(model_watchdog, "stub_pids", lambda pid: {MODEL: set(range(fake.living))})
    monkeypatch.setattr(model_watchdog, "stubs", lambda pid: ())
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    fake.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield fake
    server.stop(None)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository."""
    for name in (MODEL, "prepare", UNARY):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").touch()
    return tmp_path / "models"


def looking(triton: FakeTriton, events: list[dict[str, Any]], repository: Path = Path()) -> ModelWatchdog:
    options = ServerOptions(grpc_port=triton.port, repository=repository)
    return ModelWatchdog(options, os.getpid(), run_directory=repository, report=events.append)


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
