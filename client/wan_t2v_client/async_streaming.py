"""One streaming call for asyncio. Cancelling the task that reads it stops the work on the server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from wan_t2v_client.deadline import AnswerDeadline, Deadline
from wan_t2v_client.errors import ClientError, EndedByServer, ServerFault
from wan_t2v_client.fields import EncodedRequest, encode_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.limits import QUESTION, Limits, explain_refusal
from wan_t2v_client.progress import Heartbeat, Message, Progress, ended_without_word, message_of_stream
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.streaming import CLOSE_LIMIT_S, message_for_stream
from wan_t2v_client.transport.async_channel import AsyncChannel
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Limit, Watchdog


async def stream_generation_asyncio(
    channel: AsyncChannel,
    fields: Mapping[str, Any],
    *,
    deadline_s: float | None = None,
    idle_limit_s: float = IDLE_LIMIT_S,
    on_heartbeat: Callable[[Heartbeat], None] = lambda beat: None,
    retry: RetryPolicy = NO_RETRY,
) -> AsyncGenerator[Progress | Generation, None]:
    """Do what `wan_t2v_client.streaming.stream_generation` does, over a channel that the calls share."""
    request = encode_fields(fields)
    deadline = Deadline(deadline_s)
    retries = Retries(retry, deadline)
    while True:
        watchdog = Watchdog(idle_limit_s, deadline)
        try:
            async with contextlib.aclosing(_one_try(channel, request, watchdog=watchdog)) as messages:
                async for message in messages:
                    if isinstance(message, Heartbeat):
                        on_heartbeat(message)
                    elif not isinstance(message, Limits):
                        yield message
            return
        except ClientError as error:
            explained = await asyncio.to_thread(explain, error, channel.connection.url)
            wait_s = retries.wait_s(explained, progressed=watchdog.progressed)
        await channel.pause(wait_s)


async def ask_limits_asyncio(channel: AsyncChannel, *, deadline_s: float | None = None) -> Limits:
    """Do what `wan_t2v_client.streaming.ask_limits` does."""
    deadline = AnswerDeadline(deadline_s)
    answers = _one_try(channel, QUESTION, watchdog=Watchdog(IDLE_LIMIT_S, deadline))
    try:
        async with contextlib.aclosing(answers) as messages:
            async for message in messages:
                if isinstance(message, Limits):
                    return message
    except ClientError as error:
        explained = await asyncio.to_thread(explain, error, channel.connection.url)
        raise explain_refusal(deadline.explain(explained)) from None
    raise ServerFault("the server ended the stream without its limits")


async def _one_try(
    channel: AsyncChannel, request: EncodedRequest, *, watchdog: Watchdog
) -> AsyncGenerator[Message, None]:
    finished = asyncio.Event()
    call = channel.stub().ModelStreamInfer(
        _requests(message_for_stream(request, watchdog.deadline), finished),
        timeout=watchdog.deadline.timeout_s(),
        metadata=channel.connection.metadata,
    )
    responses = aiter(call)
    try:
        while not finished.is_set():
            message = await _next(responses, watchdog.limit(), channel=channel)
            if isinstance(message, Generation | Limits):
                finished.set()
                await _read_to_end(responses, channel)
            else:
                watchdog.record(message)
            yield message
    except EndedByServer as end:
        finished.set()
        await _read_to_end(responses, channel)
        raise end.error from None
    finally:
        call.cancel()
        finished.set()  # cancel() does not end gRPC's sending task of a finished call, which would wait for ever


async def _requests(request: Any, finished: asyncio.Event) -> AsyncIterator[Any]:
    """Yield the one request, then keep the client's side of the stream open until the call is finished."""
    yield request
    await finished.wait()


async def _next(responses: AsyncIterator[Any], limit: Limit, *, channel: AsyncChannel) -> Message:
    try:
        async with asyncio.timeout(limit.seconds):
            response = await channel.answer(anext(responses, None))
    except TimeoutError:
        raise limit.error from None
    if response is None:
        raise ended_without_word()
    return message_of_stream(response)


async def _read_to_end(responses: AsyncIterator[Any], channel: AsyncChannel) -> None:
    """Read to the stream's end, so that the server does not count a finished request as cancelled."""
    with contextlib.suppress(TimeoutError, ClientError):
        async with asyncio.timeout(CLOSE_LIMIT_S):
            while await channel.answer(anext(responses, None)) is not None:
                pass
