"""Responses to one caller of the streaming endpoint: steps, heartbeats and the final response."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from wan_t2v.operate.shared_memory import free_bytes
from wan_t2v.progress import Progress
from wan_t2v.serving.errors import NoRoomForAnswer
from wan_t2v.serving.python_backend.responses import error_response
from wan_t2v.serving.python_backend.tensors import byte_size, text_to_triton

HEARTBEAT_S = 5.0  # without a response, before a heartbeat is sent
# A region grows by the response or by Triton's `shm-growth-byte-size` (1 or 64 MiB), and its free blocks are scattered.
ROOM_BYTES = 256 << 20
QUEUE, PREPARE, DENOISE, LOAD, DECODE, ENCODE = "queue", "prepare", "denoise", "load", "decode", "encode"


class ResponseStream:
    """Sends one request's responses, from the thread that works on it and from the heartbeat thread.

    `ahead` counts the generations that go first while the request waits. `now` is a steady clock, in seconds.
    `free` measures the bytes that are left in /dev/shm.
    """

    def __init__(
        self,
        pb_utils: Any,
        sender: Any,
        *,
        ahead: Callable[[], int],
        now: Callable[[], float] = time.monotonic,
        free: Callable[[], int] = free_bytes,
    ) -> None:
        self._pb_utils, self._sender, self._ahead, self._now, self._free = pb_utils, sender, ahead, now, free
        self._sending = threading.Lock()
        self._ended = False
        self._stage, self._stage_since, self._told = QUEUE, now(), -math.inf

    def enter_stage(self, stage: str) -> None:
        """Enter a stage."""
        self._stage, self._stage_since = stage, self._now()

    @contextlib.contextmanager
    def within_stage(self, stage: str) -> Iterator[None]:
        """Enter a stage within this context, and return to the previous one at its end."""
        before = self._stage, self._stage_since
        self.enter_stage(stage)
        try:
            yield
        finally:
            self._stage, self._stage_since = before

    def send_step(self, progress: Progress, preview: bytes | None) -> None:
        """Send a step, with or without a preview."""
        texts: dict[str, str | bytes] = {"progress": progress.to_json()}
        if preview:
            texts["preview"] = preview
        with self._sending:
            self._send([text_to_triton(self._pb_utils, name, text) for name, text in texts.items()])

    def heartbeat(self) -> None:
        """Send a heartbeat if nothing was sent for HEARTBEAT_S. Skip it while another send is under way."""
        if self._ended or self._now() - self._told < HEARTBEAT_S or not self._sending.acquire(blocking=False):
            return
        try:
            if not self._ended:
                self._send([text_to_triton(self._pb_utils, "heartbeat", self._heartbeat())])
        finally:
            self._sending.release()

    def send_ahead(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Send the tensors of the end before it if /dev/shm may have no room for them, and return those left to send.

        Triton closes a stream before it copies the final response. If the copy fails then, no error can follow and the
        caller waits for ever. Raises NoRoomForAnswer here, where one can.
        """
        needed, free = sum(byte_size(tensor) for tensor in tensors), self._free()
        if free >= ROOM_BYTES + needed:
            return tensors
        with self._sending:
            try:
                self._send(tensors)
            except self._pb_utils.TritonModelException as fault:
                raise NoRoomForAnswer(needed_bytes=needed, free_bytes=free, reason=fault) from fault
            self._ended = True  # nothing but the end comes after the video, and no heartbeat
        return ()

    def send_end(self, error: BaseException | None, tensors: Sequence[Any] = ()) -> None:
        """Send the final response: the error, else the tensors, else only Triton's end mark."""
        final = self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        with self._sending:
            self._ended = True
            if error is not None:
                self._sender.send(error_response(self._pb_utils, error), flags=final)
            elif tensors:
                self._sender.send(self._pb_utils.InferenceResponse(output_tensors=list(tensors)), flags=final)
            else:
                self._sender.send(flags=final)

    def _send(self, tensors: Sequence[Any]) -> None:
        self._sender.send(self._pb_utils.InferenceResponse(output_tensors=list(tensors)))
        self._told = self._now()

    def _heartbeat(self) -> str:
        stage = {"stage": self._stage, "stage_s": round(self._now() - self._stage_since, 1)}
        return json.dumps({**stage, **({"ahead": self._ahead()} if self._stage == QUEUE else {})})
