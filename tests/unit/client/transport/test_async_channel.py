"""Whose cancellation an asyncio call ends with."""

import asyncio
import contextlib

import grpc
import pytest
from wan_t2v_client import Connection, ServerFault, Unavailable
from wan_t2v_client.transport.async_channel import AsyncChannel

UNAVAILABLE = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


async def fail_when_cancelled() -> None:
    """Drop a cancellation, as gRPC does if the call fails at the same moment."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    raise UNAVAILABLE


def test_a_task_that_is_cancelled_as_its_call_fails_ends_as_cancelled() -> None:
    """Otherwise the caller would try again."""

    async def cancel_as_it_fails() -> None:
        task = asyncio.create_task(AsyncChannel(Connection()).answer(fail_when_cancelled()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel_as_it_fails())


def test_a_call_after_a_cancellation_that_was_caught_ends_with_its_own_error() -> None:
    async def fail() -> None:
        raise UNAVAILABLE

    async def clean_up() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await AsyncChannel(Connection()).answer(fail())

    async def cancel() -> None:
        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(Unavailable):
        asyncio.run(cancel())


def test_a_channel_that_closes_as_a_pause_ends_cancels_it() -> None:
    class ClosedAtTheEnd(asyncio.Event):
        async def wait(self) -> bool:
            self.set()
            return await asyncio.Event().wait()

    async def close_at_the_end() -> None:
        channel = AsyncChannel(Connection())
        channel._closed = ClosedAtTheEnd()
        await channel.pause(0.0)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(close_at_the_end())


def test_a_failed_call_of_a_task_that_goes_on_is_an_error() -> None:
    async def fail() -> None:
        raise UNAVAILABLE

    with pytest.raises(Unavailable):
        asyncio.run(AsyncChannel(Connection()).answer(fail()))


def test_a_cancellation_that_nobody_asked_for_is_a_fault() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ServerFault, match="which nobody asked for"):
        asyncio.run(AsyncChannel(Connection()).answer(cancelled()))
