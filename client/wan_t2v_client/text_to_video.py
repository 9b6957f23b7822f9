"""The blocking client: generates videos through either endpoint of a server."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from wan_t2v_client.deadline import AnswerDeadline, Deadline, check_seconds
from wan_t2v_client.errors import ClientError, client_closed, client_error_from_rpc
from wan_t2v_client.fields import encode_fields
from wan_t2v_client.generation import Generation, generation_from_answer
from wan_t2v_client.limits import Limits
from wan_t2v_client.model_list import models_from_statistics
from wan_t2v_client.progress import Heartbeat, Progress
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.streaming import ask_limits, stream_generation
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S

UNARY_MODEL = "text_to_video"


class TextToVideo:
    """A connection to a server. Use it as a context, or call `close`.

    `retry` is the policy for calls while the server is unavailable; by default a call is tried once.
    """

    def __init__(self, connection: Connection | None = None, *, retry: RetryPolicy = NO_RETRY) -> None:
        self._connection, self._retry = connection or Connection(), retry
        self._channel, self._closed = self._connection.open_channel(), False

    def __enter__(self) -> "TextToVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection for good. Later calls raise RequestRefused."""
        self._closed = True
        self._channel.close()

    def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_heartbeat: Callable[[Heartbeat], None] = lambda beat: None,
        deadline_s: float | None = None,
        idle_limit_s: float = IDLE_LIMIT_S,
        **fields: Any,
    ) -> Generation:
        """Generate a video through the streaming endpoint.

        `fields` are the request's other fields; None is the default.
        An exception out of `on_progress`, Ctrl-C and the deadline all stop the work on the server. Raises
        RequestRefused, Unavailable, DeadlineExceeded or ServerFault.
        """
        stream = self.stream(
            prompt, on_heartbeat=on_heartbeat, deadline_s=deadline_s, idle_limit_s=idle_limit_s, **fields
        )
        with closing(stream) as messages:
            for message in messages:
                if isinstance(message, Generation):
                    return message
                on_progress(message)
        raise AssertionError("the stream ended without a video")

    def stream(
        self,
        prompt: str,
        *,
        on_heartbeat: Callable[[Heartbeat], None] = lambda beat: None,
        deadline_s: float | None = None,
        idle_limit_s: float = IDLE_LIMIT_S,
        **fields: Any,
    ) -> Generator[Progress | Generation, None, None]:
        """Yield a Progress after each step and the Generation last; see `wan_t2v_client.streaming`."""
        self._check_open()
        check_seconds("idle_limit_s", idle_limit_s)
        return stream_generation(
            self._connection,
            {"prompt": prompt, **fields},
            deadline_s=deadline_s,
            idle_limit_s=idle_limit_s,
            on_heartbeat=on_heartbeat,
            retry=self._retry,
        )

    def generate_unary(self, prompt: str, *, deadline_s: float | None = None, **fields: Any) -> Generation:
        """Generate a video through the unary endpoint: no progress, and disconnecting does not stop the work.

        So after a broken connection, the server finishes the old try beside the next one. Raises as `generate` does.
        """
        request = encode_fields({"prompt": prompt, **fields})
        deadline = Deadline(deadline_s)
        retries = Retries(self._retry, deadline)
        while True:
            try:
                message = request.message(UNARY_MODEL, timeout_us=deadline.timeout_us())
                answer = self._ask("ModelInfer", message, timeout_s=deadline.timeout_s())
                return generation_from_answer(InferResult(answer))
            except ClientError as error:
                wait_s = retries.wait_s(error)
            time.sleep(wait_s)

    def limits(self, *, deadline_s: float | None = None) -> Limits:
        """Read what the server serves: sizes, ranges, choices and defaults of fields.

        Waits 10 s for the answer if `deadline_s` is None. Raises as `generate` does.
        """
        self._check_open()
        return ask_limits(self._connection, deadline_s=deadline_s)

    def models(self, *, deadline_s: float | None = None) -> list[dict[str, Any]]:
        """List each loaded model with its version and how often it ran. Waits and raises as `limits` does."""
        deadline, message = AnswerDeadline(deadline_s), service_pb2.ModelStatisticsRequest()
        try:
            answer = self._ask("ModelStatistics", message, timeout_s=deadline.timeout_s())
        except ClientError as error:
            raise deadline.explain(error) from None
        return models_from_statistics(answer)

    def _ask(self, method: str, message: Any, *, timeout_s: float | None) -> Any:
        """Call a method of Triton's gRPC service. Raises ClientError."""
        self._check_open()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            return getattr(stub, method)(message, timeout=timeout_s, metadata=self._connection.metadata)
        except grpc.RpcError as failure:
            self._check_open()  # closed by another thread meanwhile
            raise explain(client_error_from_rpc(failure), self._connection.url) from None

    def _check_open(self) -> None:
        if self._closed:
            raise client_closed()
