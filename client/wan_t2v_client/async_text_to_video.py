"""The asyncio client: many videos at a time in one thread. Cancelling a task stops its work on the server."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from tritonclient.grpc import InferResult, service_pb2

from wan_t2v_client.async_streaming import ask_limits_asyncio, stream_generation_asyncio
from wan_t2v_client.deadline import AnswerDeadline, Deadline, check_seconds
from wan_t2v_client.errors import ClientError
from wan_t2v_client.fields import encode_fields
from wan_t2v_client.generation import Generation, generation_from_answer
from wan_t2v_client.limits import Limits
from wan_t2v_client.model_list import models_from_statistics
from wan_t2v_client.progress import Heartbeat, Progress
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.text_to_video import UNARY_MODEL
from wan_t2v_client.transport.async_channel import AsyncChannel
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S


class AsyncTextToVideo:
    """A connection to a server, for one event loop. Use it as an asynchronous context, or await `close`.

    `retry` is the policy for calls while the server is unavailable; by default a call is tried once.
    """

    def __init__(self, connection: Connection | None = None, *, retry: RetryPolicy = NO_RETRY) -> None:
        self._channel, self._retry = AsyncChannel(connection or Connection()), retry

    async def __aenter__(self) -> "AsyncTextToVideo":
        self._channel.stub()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection for good: running calls are cancelled, and later ones raise RequestRefused."""
        await self._channel.close()

    async def generate(
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
        Cancelling the task, an exception out of `on_progress` and the deadline all stop the work on the server.
        Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault.
        """
        stream = self.stream(
            prompt, on_heartbeat=on_heartbeat, deadline_s=deadline_s, idle_limit_s=idle_limit_s, **fields
        )
        async with aclosing(stream) as messages:
            async for message in messages:
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
    ) -> AsyncGenerator[Progress | Generation, None]:
        """Yield a Progress after each step and the Generation last. Close it (`contextlib.aclosing`) to stop early.

        Raises as `generate` does.
        """
        check_seconds("idle_limit_s", idle_limit_s)
        return stream_generation_asyncio(
            self._channel,
            {"prompt": prompt, **fields},
            deadline_s=deadline_s,
            idle_limit_s=idle_limit_s,
            on_heartbeat=on_heartbeat,
            retry=self._retry,
        )

    async def generate_unary(self, prompt: str, *, deadline_s: float | None = None, **fields: Any) -> Generation:
        """Generate a video through the unary endpoint, as `TextToVideo.generate_unary` does.

        Cancelling the task ends the call, but the work on the server runs to its end. Raises as `generate` does.
        """
        request = encode_fields({"prompt": prompt, **fields})
        deadline = Deadline(deadline_s)
        retries = Retries(self._retry, deadline)
        while True:
            try:
                message = request.message(UNARY_MODEL, timeout_us=deadline.timeout_us())
                answer = await self._ask("ModelInfer", message, timeout_s=deadline.timeout_s())
                return generation_from_answer(InferResult(answer))
            except ClientError as error:
                wait_s = retries.wait_s(error)
            await self._channel.pause(wait_s)

    async def limits(self, *, deadline_s: float | None = None) -> Limits:
        """Read what the server serves: sizes, ranges, choices and defaults of fields.

        Waits 10 s for the answer if `deadline_s` is None. Raises as `generate` does.
        """
        return await ask_limits_asyncio(self._channel, deadline_s=deadline_s)

    async def models(self, *, deadline_s: float | None = None) -> list[dict[str, Any]]:
        """List each loaded model with its version and how often it ran. Waits and raises as `limits` does."""
        deadline, message = AnswerDeadline(deadline_s), service_pb2.ModelStatisticsRequest()
        try:
            answer = await self._ask("ModelStatistics", message, timeout_s=deadline.timeout_s())
        except ClientError as error:
            raise deadline.explain(error) from None
        return models_from_statistics(answer)

    async def _ask(self, method: str, message: Any, *, timeout_s: float | None) -> Any:
        """Call a method of Triton's gRPC service. Raises ClientError."""
        connection = self._channel.connection
        call = getattr(self._channel.stub(), method)(message, timeout=timeout_s, metadata=connection.metadata)
        try:
            return await self._channel.answer(call)
        except ClientError as error:
            raise await asyncio.to_thread(explain, error, connection.url) from None
