"""A server that makes a video step by step, as the test says when: real previews, a real MP4."""

import io
import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wan_t2v_gateway.storage.pictures import _png

from tests.fakes.published_limits import answer, is_question
from tests.fakes.responses import response
from tests.fakes.scripted_server import ScriptedServer

STEPS, SIZE = 4, 64


@dataclass
class StepwiseServer(ScriptedServer):
    """Every call gets what `step` and `finish` put into one line, until its caller leaves."""

    answers: queue.Queue[Any] = field(default_factory=queue.Queue)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        request = next(requests)
        if is_question(request):
            yield answer(self.limits)
            next(requests, None)
            return
        self._begun(request, context)
        left = threading.Event()
        context.add_callback(left.set)
        while not left.is_set():
            try:
                told, last = self.answers.get(timeout=0.02)
            except queue.Empty:
                continue
            yield service_pb2.ModelStreamInferResponse(infer_response=told)
            if last:
                next(requests, None)
                return
        self.cancelled.set()

    def step(self, number: int) -> None:
        """A step is done, with a preview that is the sharper the later it is."""
        expert = "high_noise_expert" if number <= STEPS // 2 else "low_noise_expert"
        told = {"step": number, "num_inference_steps": STEPS, "timestep": 1000 - number, "expert": expert}
        told |= {"step_s": 0.5, "left_s": 0.5 * (STEPS - number)}
        preview = _png(picture(0.3, block=2 ** (STEPS + 1 - number)))
        self.answers.put((response(progress=json.dumps(told).encode(), preview=preview), False))

    def finish(self) -> None:
        """The MP4, two seconds of a ball that rolls."""
        settings = {"num_frames": 33, "height": SIZE, "width": SIZE, "seed": 7, "num_inference_steps": STEPS}
        metadata = json.dumps({"settings": settings, "prompt_truncated": False}).encode()
        self.answers.put((response(video=mp4(), frames=None, denoised_latents=None, metadata=metadata), True))


def picture(at: float, *, block: int = 1) -> Any:
    """A ball at a part of the width, in squares of so many pixels."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] // block * block
    ball = (x - at * SIZE) ** 2 + (y - SIZE / 2) ** 2 < (SIZE / 6) ** 2
    return np.where(ball[..., None], np.uint8([210, 60, 50]), np.uint8([230, 225, 215]))


def mp4() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=16)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for at in np.linspace(0.2, 0.8, 33):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(at)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@contextmanager
def serving_stepwise() -> Iterator[StepwiseServer]:
    servicer = StepwiseServer([()])
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait(5)
