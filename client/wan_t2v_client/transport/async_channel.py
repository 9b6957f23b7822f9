"""The asyncio client's gRPC channel: opened by the first call, closed once and for all calls."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2_grpc

from wan_t2v_client.errors import ServerFault, client_closed, client_error_from_rpc
from wan_t2v_client.transport.connection import Connection

Answer = TypeVar("Answer")


class AsyncChannel:
    """A channel for one event loop. Closing it cancels the calls that run or wait for a retry."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channel: grpc.aio.Channel | None = None
        self._closed = asyncio.Event()

    def stub(self) -> Any:
        """Return Triton's gRPC service on the channel. Raises RequestRefused."""
        if self._closed.is_set():
            raise client_closed()
        if self._channel is None:
            self._channel = self.connection.open_channel_asyncio()
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel; it cannot be opened again."""
        self._closed.set()
        if self._channel is not None:
            await self._channel.close()

    async def answer(self, call: Awaitable[Answer]) -> Answer:
        """Await an answer of the service. Raises ClientError.

        Raises CancelledError only if this task was cancelled or the channel closed. gRPC raises it also where it ends a
        call by itself, and a task group would take that for a success.
        """
        before = _cancellations()
        try:
            return await call
        except grpc.RpcError as failure:
            if _cancellations() > before:  # gRPC drops it if the call fails at the same moment
                raise asyncio.CancelledError from None
            raise client_error_from_rpc(failure) from None
        except asyncio.CancelledError:
            check_cancelled()
            if self._closed.is_set():
                raise
        raise ServerFault("gRPC cancelled the call, which nobody asked for; Python's logger 'grpc' tells why, at DEBUG")

    async def pause(self, seconds: float) -> None:
        """Wait before the next try. Raises CancelledError as soon as the channel is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        if self._closed.is_set():  # also where the wait ended at the same moment
            raise asyncio.CancelledError


def check_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: gRPC drops that if the call fails at the same moment."""
    if _cancellations():
        raise asyncio.CancelledError


def _cancellations() -> int:
    """Return how often this task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
