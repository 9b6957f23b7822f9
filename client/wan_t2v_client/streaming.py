"""A call of the streaming door: news as it comes, the video last; who stops reading stops the work."""

import queue
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from wan_t2v_client.connection import Connection
from wan_t2v_client.deadline import Deadline
from wan_t2v_client.errors import ClientError, client_error
from wan_t2v_client.fields import inputs_from_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.progress import Progress, told_by
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog

STREAM_MODEL = "text_to_video_stream"
_UNREACHED = "StatusCode.UNAVAILABLE"
News = queue.SimpleQueue[tuple[Any, InferenceServerException | None]]


def streamed(
    connection: Connection,
    fields: Mapping[str, Any],
    *,
    deadline_s: float | None = None,
    idle_limit_s: float = IDLE_LIMIT_S,
    retry: RetryPolicy = NO_RETRY,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Progress | Generation, None, None]:
    """Yield a Progress for each step, and last the Generation. Closing the iterator cancels the work on the server.

    Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault; Unavailable also if the server fell silent,
    see `wan_t2v_client.watchdog`. The deadline is for all tries together.
    """
    inputs = inputs_from_fields(fields)
    deadline = Deadline(deadline_s)
    retries = Retries(retry, deadline)
    while True:
        watchdog = Watchdog(idle_limit_s, deadline)
        try:
            yield from _one_try(connection, inputs, watchdog=watchdog)
            return
        except ClientError as error:
            wait_s = retries.wait_s(error, progressed=watchdog.progressed)
        sleep(wait_s)


def _one_try(
    connection: Connection, inputs: list[tritonclient.grpc.InferInput], *, watchdog: Watchdog
) -> Generator[Progress | Generation, None, None]:
    news: News = queue.SimpleQueue()
    client = connection.open()
    finished = False
    try:
        client.start_stream(
            lambda result, error: news.put((result, error)),
            stream_timeout=watchdog.deadline.timeout_s(),
            headers=connection.stream_headers,
        )
        try:
            client.async_stream_infer(STREAM_MODEL, inputs, enable_empty_final_response=True)
        except InferenceServerException:  # the stream broke before it was used; the reason comes as news
            news.put((None, InferenceServerException(msg="the server cannot be reached", status=_UNREACHED)))
        for told in _told(news, watchdog):
            finished = isinstance(told, Generation)
            yield told
    finally:
        client.stop_stream(cancel_requests=not finished)
        client.close()


def _told(news: News, watchdog: Watchdog) -> Generator[Progress | Generation, None, None]:
    while True:
        limit = watchdog.limit()
        try:
            result, error = news.get(timeout=limit.seconds)
        except queue.Empty:
            raise limit.error from None
        if error is not None:
            raise client_error(error)
        told = told_by(result)
        if isinstance(told, Progress):
            watchdog.told(told)
        yield told
        if isinstance(told, Generation):
            return
