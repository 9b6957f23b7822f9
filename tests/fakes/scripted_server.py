"""A gRPC server that speaks Triton's protocol and does what a test wrote down for it: real calls, scripted answers."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes.published_limits import answer, is_question, published
from tests.fakes.responses import response
from wan_t2v.serving.error_tail import ErrorTail

VIDEO = b"an MP4"
BUSY = "1 generations are under way (limit 1) and 16 wait (limit 16); try again later"


@dataclass(frozen=True)
class Step:
    """Tell of a step."""

    step: int
    step_s: float = 0.01


@dataclass(frozen=True)
class Beat:
    """Tell that the request waits for its turn."""

    ahead: int = 2


@dataclass(frozen=True)
class Refusal:
    """End the call with an error; its text ends with the tail, as the server's own."""

    code: str = "UNAVAILABLE"
    message: str = BUSY
    field: str | None = None
    retry_after_s: int | None = None

    @property
    def told(self) -> str:
        return f"{self.message}{ErrorTail(self.code, self.field, self.retry_after_s)}"


@dataclass(frozen=True)
class Pause:
    """Say nothing for a while; by default until the caller leaves."""

    seconds: float | None = None


@dataclass(frozen=True)
class Video:
    """The last answer."""

    data: bytes = VIDEO


@dataclass(frozen=True)
class Nothing:
    """The last answer of a model that ended without outputs and without an error."""


@dataclass(frozen=True)
class End:
    """End the call as if it were done, without a last answer."""


Script = Sequence[Step | Beat | Refusal | Pause | Video | Nothing | End]
MADE: Script = (Step(1), Step(2), Video())


@dataclass
class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The n-th call gets the n-th script, or the last. `most_at_once` calls were under way at a time.

    While it is not `ready` it says so, and does what it is asked all the same.
    """

    scripts: Sequence[Script]
    url: str = ""
    requests: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    finished: int = 0
    began: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    ready: bool = True
    asked_whether_ready: int = 0
    limits: dict[str, Any] | None = field(default_factory=published)
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        request = next(requests)
        if is_question(request):
            yield answer(self.limits)
            next(requests, None)
            return
        script = self._begun(request, context)
        left = threading.Event()
        context.add_callback(left.set)
        try:
            for act in script:
                if isinstance(act, End):
                    return
                if isinstance(act, Refusal):
                    yield service_pb2.ModelStreamInferResponse(error_message=act.told)
                    continue
                yield from (service_pb2.ModelStreamInferResponse(infer_response=x) for x in done(act, context, left))
            if next(requests, None) is None:  # the caller closed its side, or is gone
                self.finished += not left.is_set()
        finally:
            self._under_way -= 1
            if left.is_set():
                self.cancelled.set()

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked_whether_ready += 1
        return service_pb2.ModelReadyResponse(ready=self.ready)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        script = self._begun(request, context)
        self._under_way -= 1
        return [answer for act in script if not isinstance(act, Step) for answer in done(act, context, None)][-1]

    def _begun(self, request: Any, context: grpc.ServicerContext) -> Script:
        with self._lock:
            self.requests.append(request)
            self.headers.append(dict(context.invocation_metadata()))
            self.began.set()
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            return self.scripts[min(len(self.requests), len(self.scripts)) - 1]

    def prompts(self) -> list[str]:
        return [request.raw_input_contents[0][4:].decode() for request in self.requests]


def done(act: Any, context: grpc.ServicerContext, left: threading.Event | None) -> Iterator[Any]:
    if isinstance(act, Refusal):
        context.abort(grpc.StatusCode[act.code], act.told)
    elif isinstance(act, Pause):
        left.wait(act.seconds) if left else time.sleep(act.seconds or 0)
    elif isinstance(act, Step):
        told = {"step": act.step, "num_inference_steps": 2, "timestep": 1000 - act.step, "expert": "low_noise_expert"}
        yield response(progress=json.dumps({**told, "step_s": act.step_s, "left_s": 0.0, "not known yet": 1}).encode())
    elif isinstance(act, Beat):
        told = {"stage": "queue", "stage_s": 5.0, "ahead": act.ahead, "not known yet": 1}
        yield response(heartbeat=json.dumps(told).encode())
    elif isinstance(act, Nothing):
        yield response()
    else:
        settings = {"num_frames": 5, "height": 32, "width": 48, "seed": 7}
        metadata = json.dumps({"settings": settings, "prompt_truncated": False}).encode()
        yield response(video=act.data, frames=None, denoised_latents=None, metadata=metadata)


@contextmanager
def serving(*scripts: Script, port: int = 0, options: Sequence[tuple[str, Any]] = ()) -> Iterator[ScriptedServer]:
    servicer = ScriptedServer(scripts)
    server = grpc.server(ThreadPoolExecutor(8), options=list(options))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.url = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait(5)
