"""What one caller of the streaming door is told: steps, the end, and between them that the work goes on."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from wan_t2v.progress import Progress
from wan_t2v.serving.python_backend.responses import streamed_failure
from wan_t2v.serving.python_backend.tensors import text_to_triton

HEARTBEAT_S = 5.0  # of silence before a caller hears that the server is still there
QUEUE, PREPARE, DENOISE, LOAD, DECODE, ENCODE = "queue", "prepare", "denoise", "load", "decode", "encode"


class News:
    """Sends one request's responses, from the thread that works on it and from the one that beats for all.

    `ahead` counts the generations that go first, for as long as the request waits. `now` is a steady clock.
    """

    def __init__(
        self, pb_utils: Any, sender: Any, ahead: Callable[[], int], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pb_utils, self._sender, self._ahead, self._now = pb_utils, sender, ahead, now
        self._sending = threading.Lock()
        self._ended = False
        self._stage, self._stage_since, self._told = QUEUE, now(), -math.inf

    def entered(self, stage: str) -> None:
        """The request is in this stage from now on."""
        self._stage, self._stage_since = stage, self._now()

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """The request is in this stage inside, and then again in the one that it was in."""
        before = self._stage, self._stage_since
        self.entered(stage)
        try:
            yield
        finally:
            self._stage, self._stage_since = before

    def stepped(self, progress: Progress, preview: bytes | None) -> None:
        """Tell of a step, with a picture or without."""
        told: dict[str, str | bytes] = {"progress": progress.to_json()}
        if preview:
            told["preview"] = preview
        with self._sending:
            self._send([text_to_triton(self._pb_utils, name, text) for name, text in told.items()])

    def beat(self) -> None:
        """Tell that the request is not forgotten, if nothing was told for HEARTBEAT_S. Waits for no other send."""
        if self._ended or self._now() - self._told < HEARTBEAT_S or not self._sending.acquire(blocking=False):
            return
        try:
            if not self._ended:
                self._send([text_to_triton(self._pb_utils, "heartbeat", self._heartbeat())])
        finally:
            self._sending.release()

    def end(self, error: BaseException | None, tensors: Sequence[Any] = ()) -> None:
        """The last response: the tensors, or why there are none. What comes later is not sent."""
        with self._sending:
            self._ended = True
            response = (
                self._pb_utils.InferenceResponse(output_tensors=list(tensors))
                if error is None
                else streamed_failure(self._pb_utils, error)
            )
            self._sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, tensors: Sequence[Any]) -> None:
        self._sender.send(self._pb_utils.InferenceResponse(output_tensors=list(tensors)))
        self._told = self._now()

    def _heartbeat(self) -> str:
        stage = {"stage": self._stage, "stage_s": round(self._now() - self._stage_since, 1)}
        return json.dumps({**stage, **({"ahead": self._ahead()} if self._stage == QUEUE else {})})
