"""One streaming call: messages as they arrive, the video last. Closing the iterator stops the work on the server."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from tritonclient.utils import InferenceServerException

from wan_t2v_client.deadline import Deadline
from wan_t2v_client.errors import ClientError, EndedByServer, ServerFault, client_error
from wan_t2v_client.fields import EncodedRequest, encode_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.limits import ANSWER_LIMIT_S, QUESTION, Limits, explain_refusal
from wan_t2v_client.progress import LAST, Heartbeat, Message, Progress, read_message
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog

CLOSE_LIMIT_S = 5.0  # for the stream's end after the final response or error
STREAM_MODEL = "text_to_video_stream"
_UNREACHED = "StatusCode.UNAVAILABLE"
Messages = queue.SimpleQueue[tuple[Any, InferenceServerException | None]]


def stream_generation(
    connection: Connection,
    fields: Mapping[str, Any],
    *,
    deadline_s: float | None = None,
    idle_limit_s: float = IDLE_LIMIT_S,
    on_heartbeat: Callable[[Heartbeat], None] = lambda beat: None,
    retry: RetryPolicy = NO_RETRY,
) -> Generator[Progress | Generation, None, None]:
    """Yield a Progress for each step, and last the Generation. Closing the iterator cancels the work on the server.

    `on_heartbeat` receives the server's heartbeats, such as the place in the queue.

    Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault. Unavailable also if the server fell silent,
    see `wan_t2v_client.watchdog`. The deadline holds for all tries together.
    """
    request = encode_fields(fields)
    deadline = Deadline(deadline_s)
    retries = Retries(retry, deadline)
    while True:
        watchdog = Watchdog(idle_limit_s, deadline)
        try:
            with closing(_one_try(connection, request, watchdog=watchdog)) as messages:
                for message in messages:
                    if isinstance(message, Heartbeat):
                        on_heartbeat(message)
                    elif not isinstance(message, Limits):
                        yield message
            return
        except ClientError as error:
            wait_s = retries.wait_s(explain(error, connection.url), progressed=watchdog.progressed)
        time.sleep(wait_s)


def ask_limits(connection: Connection, *, deadline_s: float | None = None) -> Limits:
    """Request the limits, without retries. Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault."""
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(ANSWER_LIMIT_S if deadline_s is None else deadline_s))
    try:
        with closing(_one_try(connection, QUESTION, watchdog=watchdog)) as messages:
            for message in messages:
                if isinstance(message, Limits):
                    return message
    except ClientError as error:
        raise explain_refusal(explain(error, connection.url)) from None
    raise ServerFault("the server ended the stream without its limits")


def _one_try(connection: Connection, request: EncodedRequest, *, watchdog: Watchdog) -> Generator[Message, None, None]:
    messages: Messages = queue.SimpleQueue()
    client = connection.open()
    finished = False  # then it must not be cancelled: tritonserver 2.51 can keep the socket for ever
    try:
        _start_stream(
            client,
            lambda result, error: messages.put((result, error)),
            stream_timeout=watchdog.deadline.timeout_s(),
            headers=dict(connection.headers),
        )
        try:
            client.async_stream_infer(
                STREAM_MODEL,
                request.inputs,
                enable_empty_final_response=True,
                timeout=watchdog.deadline.timeout_us(),
                parameters=request.parameters or None,
            )
        except InferenceServerException:  # the stream broke before it was used
            messages.put((None, InferenceServerException(msg="the server cannot be reached", status=_UNREACHED)))
        for message in _read_messages(messages, watchdog):
            finished = isinstance(message, LAST)
            yield message
    except EndedByServer as end:
        finished = True
        raise end.error from None
    finally:
        _close(client, finished=finished)


def _start_stream(client: Any, callback: Callable[..., None], **options: Any) -> None:
    """Start the stream from a daemon thread: tritonclient's own thread is one then, and lets a process exit."""
    started: Future[None] = Future()

    def start() -> None:
        try:
            started.set_result(client.start_stream(callback, **options))
        except BaseException as error:
            started.set_exception(error)

    threading.Thread(target=start, daemon=True).start()
    started.result()


def _close(client: Any, *, finished: bool) -> None:
    """End the stream: cancel it, or if it is finished wait up to CLOSE_LIMIT_S for the server to end it.

    The caller waits no longer than twice that. On a busy machine gRPC was seen never to report the end of a cancelled
    call, for which tritonclient waits without a limit.
    """
    ending = threading.Thread(target=_end, args=[client], kwargs={"cancel": not finished}, daemon=True)
    ending.start()
    ending.join(CLOSE_LIMIT_S)
    if ending.is_alive():
        threading.Thread(target=_end, args=[client], kwargs={"cancel": True}, daemon=True).start()
        ending.join(CLOSE_LIMIT_S)


def _end(client: Any, *, cancel: bool) -> None:
    with contextlib.suppress(AttributeError):  # the other thread has closed the stream meanwhile
        client.stop_stream(cancel_requests=cancel)
    client.close()


def _read_messages(messages: Messages, watchdog: Watchdog) -> Generator[Message, None, None]:
    while True:
        limit = watchdog.limit()
        try:
            result, error = messages.get(timeout=limit.seconds)
        except queue.Empty:
            raise limit.error from None
        if error is not None:
            raise EndedByServer(client_error(error))
        try:
            message = read_message(result)
        except ServerFault as fault:
            raise EndedByServer(fault) from None
        if isinstance(message, Generation | Limits):
            yield message
            return
        watchdog.record(message)
        yield message
