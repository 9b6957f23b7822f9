"""One call of the streaming door: news as it comes, the video last; who stops reading stops the work."""

import json
import queue
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from wan_t2v_client.connection import Connection
from wan_t2v_client.errors import DeadlineExceeded, Unavailable, client_error
from wan_t2v_client.fields import inputs_from_fields
from wan_t2v_client.generation import Generation, generation_from_answer

STREAM_MODEL = "text_to_video_stream"
FIRST_NEWS_LIMIT_S = 600.0  # before the first step nothing is known about how long one takes
IDLE_LIMIT_S = 30.0
IDLE_STEPS = 5
_UNREACHED = "StatusCode.UNAVAILABLE"


@dataclass(frozen=True)
class Progress:
    """What the server told after a step.

    Attributes:
        step, num_inference_steps: the `step`-th of so many.
        timestep, expert: where it was on the schedule, and who ran it.
        step_s: seconds it took on the server.
        left_s: the server's estimate of the seconds for the steps that are left.
        preview: a small PNG of what the clip is becoming, if it was asked for and this step has one.
    """

    step: int
    num_inference_steps: int
    timestep: int
    expert: str
    step_s: float
    left_s: float
    preview: bytes | None = None


def streamed(
    connection: Connection, fields: Mapping[str, Any], *, deadline_s: float | None, idle_limit_s: float
) -> Generator[Progress | Generation, None, None]:
    """Yield a Progress for each step, and last the Generation. Closing the iterator cancels the work on the server.

    Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault; Unavailable also if nothing came for
    `idle_limit_s` seconds and for the time of `IDLE_STEPS` steps.
    """
    inputs = inputs_from_fields(fields)
    news: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
    client = connection.open()
    finished = False
    try:
        client.start_stream(
            lambda result, error: news.put((result, error)),
            stream_timeout=deadline_s,
            # else an error comes as text without its code; the stream ends with the error, and it has one request
            headers={**connection.headers, "triton_grpc_error": "true"},
        )
        try:
            client.async_stream_infer(STREAM_MODEL, inputs)
        except InferenceServerException:  # the stream broke before it was used; the reason comes as news
            news.put((None, InferenceServerException(msg="the server cannot be reached", status=_UNREACHED)))
        for told in _told(news, deadline_s=deadline_s, idle_limit_s=idle_limit_s):
            finished = isinstance(told, Generation)
            yield told
    finally:
        client.stop_stream(cancel_requests=not finished)
        client.close()


def _told(
    news: "queue.SimpleQueue[tuple[Any, InferenceServerException | None]]",
    *,
    deadline_s: float | None,
    idle_limit_s: float,
) -> Generator[Progress | Generation, None, None]:
    started, patience_s = time.monotonic(), max(FIRST_NEWS_LIMIT_S, idle_limit_s)
    while True:
        left_s = patience_s if deadline_s is None else started + deadline_s - time.monotonic()
        try:
            result, error = news.get(timeout=max(0.0, min(patience_s, left_s)))
        except queue.Empty:
            raise _silence(min(patience_s, left_s), left_s <= patience_s and deadline_s is not None) from None
        if error is not None:
            raise client_error(error)
        progress = _progress(result)
        if progress is None:
            yield generation_from_answer(result)
            return
        patience_s = max(idle_limit_s, IDLE_STEPS * progress.step_s)
        yield progress


def _silence(waited_s: float, deadline_passed: bool) -> DeadlineExceeded | Unavailable:
    if deadline_passed:
        return DeadlineExceeded("the deadline passed before the video was done; the work on it was stopped")
    return Unavailable(f"the server told nothing for {waited_s:.0f} s; the request was given up")


def _progress(result: tritonclient.grpc.InferResult) -> Progress | None:
    told = result.as_numpy("progress")
    if told is None:
        return None
    preview = result.as_numpy("preview")
    return Progress(**json.loads(told[0]), preview=None if preview is None else preview[0])
