"""A fake server that needs no time for a video, so that all measured time is the gateway's."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes.published_limits import answer, is_question, published
from tests.fakes.responses import response


@dataclass
class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A fake streaming endpoint: each call gets `steps` steps, `step_s` seconds apart, then the video.

    Times are those of `time.perf_counter`: `called` per call, `told` per step, `last_word` of the final response.
    """

    video: bytes
    steps: int = 1
    step_s: float = 0.0
    preview: bytes = b""
    url: str = ""
    called: list[float] = field(default_factory=list)
    told: dict[int, float] = field(default_factory=dict)
    last_word: float = 0.0
    go: threading.Event = field(default_factory=threading.Event)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that it is ready, which a worker asks before each job."""
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Serve the streaming endpoint."""
        if is_question(next(requests)):
            yield answer(published())
            next(requests, None)
            return
        self.called.append(time.perf_counter())
        self.go.wait()
        for number in range(1, self.steps + 1):
            told = {"step": number, "num_inference_steps": self.steps, "timestep": 0, "expert": "low_noise_expert"}
            self.told[number] = time.perf_counter()
            shown = {"preview": self.preview} if self.preview and number % 2 == 0 else {}
            yield _answer(progress=json.dumps({**told, "step_s": self.step_s, "left_s": 0.0}).encode(), **shown)
            time.sleep(self.step_s)
        settings = {"num_frames": 33, "height": 64, "width": 64, "seed": 7}
        self.last_word = time.perf_counter()
        yield _answer(
            video=self.video, frames=None, denoised_latents=None, metadata=json.dumps({"settings": settings}).encode()
        )
        next(requests, None)


def _answer(**outputs: bytes | None) -> Any:
    return service_pb2.ModelStreamInferResponse(infer_response=response(**outputs))


@contextmanager
def serving(video: bytes, *, steps: int = 1, step_s: float = 0.0, preview: bytes = b"") -> Iterator[StandIn]:
    """Run the fake server on a free port. A call waits until `go` is set."""
    stand_in = StandIn(video, steps, step_s, preview)
    stand_in.go.set()
    server = grpc.server(ThreadPoolExecutor(32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)
    stand_in.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield stand_in
    finally:
        server.stop(None).wait(5)
