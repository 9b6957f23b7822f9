"""Triton as the watchdog of its models sees it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from embedded.options import ServerOptions
from embedded.supervision.model_watchdog import ModelWatchdog
from wan_t2v.contract import UNARY

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


def looking(triton: FakeTriton, events: list[dict[str, Any]], repository: Path = Path()) -> ModelWatchdog:
    options = ServerOptions(grpc_port=triton.port, repository=repository)
    return ModelWatchdog(options, os.getpid(), run_directory=repository, report=events.append)
