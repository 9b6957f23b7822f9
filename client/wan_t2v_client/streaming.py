"""One streaming call: messages as they arrive, the video last. Closing the iterator stops the work on the server."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2_grpc

from wan_t2v_client.deadline import AnswerDeadline, Deadline
from wan_t2v_client.errors import ClientError, EndedByServer, ServerFault, client_error_from_rpc
from wan_t2v_client.fields import EncodedRequest, encode_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.limits import QUESTION, Limits, explain_refusal
from wan_t2v_client.progress import LAST, Heartbeat, Message, Progress, ended_without_word, message_of_stream
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Watchdog

Responses = queue.SimpleQueue[Any]  # protobuf messages, and last a ClientError
CLOSE_LIMIT_S = 5.0  # for the stream's end after the final response or error
STREAM_MODEL = "text_to_video_stream"


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
    deadline = AnswerDeadline(deadline_s)
    try:
        with closing(_one_try(connection, QUESTION, watchdog=Watchdog(IDLE_LIMIT_S, deadline))) as messages:
            for message in messages:
                if isinstance(message, Limits):
                    return message
    except ClientError as error:
        raise explain_refusal(deadline.explain(explain(error, connection.url))) from None
    raise ServerFault("the server ended the stream without its limits")


def message_for_stream(request: EncodedRequest, deadline: Deadline) -> Any:
    """Make the request's message. It asks for a last response also of a model that ends without outputs."""
    timeout_us = deadline.timeout_us()
    return request.message(STREAM_MODEL, timeout_us=timeout_us, triton_enable_empty_final_response=True)


def _one_try(connection: Connection, request: EncodedRequest, *, watchdog: Watchdog) -> Generator[Message, None, None]:
    deadline = watchdog.deadline
    stream = _Stream(connection, message_for_stream(request, deadline), timeout_s=deadline.timeout_s())
    finished = False  # then it must not be cancelled: tritonserver 2.51 can keep the socket for ever
    try:
        for message in _read_messages(stream.responses, watchdog):
            finished = isinstance(message, LAST)
            yield message
    except EndedByServer as end:
        finished = True
        raise end.error from None
    finally:
        stream.close(finished=finished)


class _Stream:
    """A call of the streaming endpoint on a channel of its own, and the thread that puts its responses in a queue.

    The thread is a daemon, so that a call whose end gRPC never reports lets the process exit.
    """

    def __init__(self, connection: Connection, request: Any, *, timeout_s: float | None) -> None:
        self.responses: Responses = queue.SimpleQueue()
        self._sent_all = threading.Event()
        self._channel = connection.open_channel()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._call = stub.ModelStreamInfer(self._requests(request), timeout=timeout_s, metadata=connection.metadata)
        self._reader = threading.Thread(target=self._read, name="wan-t2v stream", daemon=True)
        try:
            self._reader.start()
        except BaseException:  # Ctrl-C, or no thread is to be had: the server would work on for nobody
            self._call.cancel()
            self._sent_all.set()
            raise

    def close(self, *, finished: bool) -> None:
        """Close the stream: cancel it, or if it is finished wait up to CLOSE_LIMIT_S for the server to end it.

        The caller waits no longer than three times that. On a busy machine gRPC was seen never to report the end of a
        cancelled call, for which its channel waits without a limit.
        """
        if sys.is_finalizing():  # no other thread runs any more; the connection ends with the process
            return
        if finished:
            self._sent_all.set()
            self._reader.join(CLOSE_LIMIT_S)
        closing = threading.Thread(target=self._cancel, daemon=True)
        closing.start()
        closing.join(CLOSE_LIMIT_S)
        self._reader.join(CLOSE_LIMIT_S)  # a thread that is stopped inside gRPC could keep the interpreter from ending

    def _cancel(self) -> None:
        self._call.cancel()  # does nothing to a call that has ended
        self._sent_all.set()  # after it: a cancelled call is not first told that no more will be sent
        self._channel.close()

    def _requests(self, request: Any) -> Iterator[Any]:
        """Yield the one request, then keep the client's side of the stream open until the call is finished."""
        yield request
        self._sent_all.wait()

    def _read(self) -> None:
        try:
            for response in self._call:
                self.responses.put(response)
            self.responses.put(ended_without_word())
        except grpc.RpcError as failure:
            self.responses.put(client_error_from_rpc(failure))


def _read_messages(responses: Responses, watchdog: Watchdog) -> Generator[Message, None, None]:
    while True:
        limit = watchdog.limit()
        try:
            response = responses.get(timeout=limit.seconds)
        except queue.Empty:
            raise limit.error from None
        if isinstance(response, ClientError):
            raise EndedByServer(response)
        message = message_of_stream(response)
        if isinstance(message, Generation | Limits):
            yield message
            return
        watchdog.record(message)
        yield message
