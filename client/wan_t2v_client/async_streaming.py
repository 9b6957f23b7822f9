"""One streaming call for asyncio. Cancelling the task that reads it stops the work on the server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import grpc  # type: ignore[import-untyped]

from wan_t2v_client.deadline import Deadline
from wan_t2v_client.errors import ClientError, EndedByServer, ServerFault, client_error, client_error_from_rpc
from wan_t2v_client.fields import EncodedRequest, encode_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.limits import ANSWER_LIMIT_S, QUESTION, Limits, explain_refusal
from wan_t2v_client.progress import Heartbeat, Message, Progress, read_message
from wan_t2v_client.retry import NO_RETRY, Retries, RetryPolicy
from wan_t2v_client.streaming import CLOSE_LIMIT_S, STREAM_MODEL
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.endpoint_probe import explain
from wan_t2v_client.watchdog import IDLE_LIMIT_S, Limit, Watchdog


async def stream_generation_asyncio(
    client: Any,
    fields: Mapping[str, Any],
    *,
    connection: Connection,
    deadline_s: float | None = None,
    idle_limit_s: float = IDLE_LIMIT_S,
    on_heartbeat: Callable[[Heartbeat], None] = lambda beat: None,
    retry: RetryPolicy = NO_RETRY,
) -> AsyncGenerator[Progress | Generation, None]:
    """Do what `wan_t2v_client.streaming.stream_generation` does, over an open asyncio client of tritonclient."""
    request = encode_fields(fields)
    deadline = Deadline(deadline_s)
    retries = Retries(retry, deadline)
    while True:
        watchdog = Watchdog(idle_limit_s, deadline)
        try:
            async with contextlib.aclosing(
                _one_try(client, request, headers=connection.headers, watchdog=watchdog)
            ) as messages:
                async for message in messages:
                    if isinstance(message, Heartbeat):
                        on_heartbeat(message)
                    elif not isinstance(message, Limits):
                        yield message
            return
        except ClientError as error:
            explained = await asyncio.to_thread(explain, error, connection.url)
            wait_s = retries.wait_s(explained, progressed=watchdog.progressed)
        await asyncio.sleep(wait_s)


async def ask_limits_asyncio(client: Any, *, connection: Connection, deadline_s: float | None = None) -> Limits:
    """Do what `wan_t2v_client.streaming.ask_limits` does."""
    watchdog = Watchdog(IDLE_LIMIT_S, Deadline(ANSWER_LIMIT_S if deadline_s is None else deadline_s))
    answers = _one_try(client, QUESTION, headers=connection.headers, watchdog=watchdog)
    try:
        async with contextlib.aclosing(answers) as messages:
            async for message in messages:
                if isinstance(message, Limits):
                    return message
    except ClientError as error:
        raise explain_refusal(await asyncio.to_thread(explain, error, connection.url)) from None
    raise ServerFault("the server ended the stream without its limits")


async def _one_try(
    client: Any, request: EncodedRequest, *, headers: Mapping[str, str], watchdog: Watchdog
) -> AsyncGenerator[Message, None]:
    finished = asyncio.Event()
    answers = client.stream_infer(
        _request(request, watchdog.deadline.timeout_us(), finished),
        stream_timeout=watchdog.deadline.timeout_s(),
        headers=dict(headers),
    )
    try:
        while not finished.is_set():
            message = await _next(answers, watchdog.limit())
            if isinstance(message, Generation | Limits):
                finished.set()
                await _read_to_end(answers)
            else:
                watchdog.record(message)
            yield message
    except EndedByServer as end:
        finished.set()
        await _read_to_end(answers)
        raise end.error from None
    finally:
        answers.cancel()
        finished.set()  # cancel() does not end gRPC's sending task of a finished call, which would wait for ever


async def _request(
    request: EncodedRequest, timeout_us: int | None, finished: asyncio.Event
) -> AsyncIterator[dict[str, Any]]:
    """Yield the one request, then keep the client's side of the stream open until the call is finished."""
    parameters = {**request.parameters, "triton_enable_empty_final_response": True}
    yield {"model_name": STREAM_MODEL, "inputs": request.inputs, "timeout": timeout_us, "parameters": parameters}
    await finished.wait()


async def _next(answers: Any, limit: Limit) -> Message:
    try:
        async with asyncio.timeout(limit.seconds):
            result, error = await anext(answers)
    except TimeoutError:
        raise limit.error from None
    except grpc.RpcError as failure:
        check_cancelled()
        raise client_error_from_rpc(failure) from None
    except StopAsyncIteration:
        raise ServerFault("the server ended the stream without a video and without an error") from None
    if error is not None:
        raise EndedByServer(client_error(error))
    try:
        return read_message(result)
    except ServerFault as fault:
        raise EndedByServer(fault) from None


def check_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: gRPC drops that if the call fails at the same moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _read_to_end(answers: Any) -> None:
    """Read to the stream's end, so that the server does not count a finished request as cancelled."""
    with contextlib.suppress(TimeoutError, grpc.RpcError):
        async with asyncio.timeout(CLOSE_LIMIT_S):
            async for _ in answers:
                pass
