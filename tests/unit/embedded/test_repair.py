"""Repair loads again a model whose process died, on 2.51 and on 2.71, and leaves alone one that is being swapped."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from embedded import repair
from embedded.options import ServerOptions
from embedded.repair import Repair
from wan_t2v.operate.processes import model_of

MODEL = "low_noise_expert"


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's answers about one model with two processes, as both versions were seen to give them.

    `states` are those of the index in their order, the last one for ever. Readiness of a model with a dead process is
    true on 2.51 and false on 2.71; of one that is not loaded it is false on 2.51 and an error on 2.71.
    """

    is_271: bool
    states: list[str]
    living: int
    port: int = 0
    changes: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.headers.append(dict(context.invocation_metadata()))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        models = [
            {"name": MODEL, "version": "1", "state": state, "reason": "" if state == "READY" else "unloaded"},
            {"name": "prepare", "version": "1", "state": "READY"},
        ]
        return service_pb2.RepositoryIndexResponse(models=models)

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
        self.states, self.living = ["READY"], 2
        return service_pb2.RepositoryModelLoadResponse()


@pytest.fixture(params=["2.51", "2.71"])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    fake = FakeTriton(request.param == "2.71", ["READY"], living=2)
    monkeypatch.setattr(repair, "stub_pids", lambda pid: {MODEL: set(range(fake.living))})
    monkeypatch.setattr(repair, "stubs", lambda pid: ())
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    fake.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield fake
    server.stop(None)


def looking(triton: FakeTriton, events: list[dict[str, Any]], run: Path = Path()) -> Repair:
    options = ServerOptions(grpc_port=triton.port)
    return Repair(options, os.getpid(), run_directory=run, report=events.append)


def test_a_model_with_a_dead_process_is_loaded_again(triton: FakeTriton, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    watching = looking(triton, events, tmp_path)
    watching.look()
    assert triton.changes == []
    triton.living = 1
    watching.look()
    assert triton.changes == [f"unload {MODEL}", f"load {MODEL}"]
    assert [event["event"] for event in events] == ["died", "repaired"]
    watching.look()
    assert len(triton.changes) == 2


@pytest.mark.parametrize("state", ["UNAVAILABLE", "UNLOADING", "LOADING"])
def test_a_model_that_was_unloaded_on_purpose_stays_so(state: str, triton: FakeTriton, tmp_path: Path) -> None:
    watching = looking(triton, [], tmp_path)
    triton.states, triton.living = [state], 0
    watching.look()
    assert triton.changes == []


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
    watching = looking(triton, [])
    triton.living = 0
    watching._options = ServerOptions(grpc_port=9)
    assert not watching.lost_a_process(MODEL)


def test_the_index_is_asked_with_the_key_and_without_a_proxy(
    triton: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    options = ServerOptions(grpc_port=triton.port)
    monkeypatch.setattr(ServerOptions, "admin_header", {"triton-grpc-protocol-admin-key": options.admin_key})
    watching = Repair(options, os.getpid(), run_directory=tmp_path, report=lambda event: None)
    triton.living = 1
    assert watching.lost_a_process(MODEL)
    assert triton.headers[0]["triton-grpc-protocol-admin-key"] == options.admin_key


@pytest.mark.parametrize("command", [[], ["/x/triton_python_backend_stub"], ["/usr/bin/python3", "x"]])
def test_a_process_that_is_being_started_is_no_models_yet(command: list[str]) -> None:
    assert model_of(command) is None
