"""Limits on how slow a caller may be: uvicorn's connection waits for ever for a request's head, and for a reader."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedConnection(H11Protocol):
    """A connection that ends when a head is not whole in time, or when nobody reads what was written.

    Attributes:
        head_s: limit from the first byte (or the connection's begin) to the end of the head.
        reader_s: limit on how long the buffer of written bytes may stay full.
    """

    head_s = 20.0
    reader_s = 60.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The head must come now."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self.head_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """A part of a head starts the clock, a whole one stops it. Bodies have a limit of their own (api/body.py)."""
        super().data_received(data)
        incomplete = self.conn.their_state is h11.IDLE
        if incomplete and self._head is None:
            self._head = self.loop.call_later(self.head_s, self.transport.abort)
        elif not incomplete and self._head is not None:
            self._head.cancel()
            self._head = None

    def pause_writing(self) -> None:
        """More was written than the reader took."""
        super().pause_writing()
        self._reader = self.loop.call_later(self.reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader took enough."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        super().connection_lost(exc)
        for timer in (self._head, self._reader):
            if timer is not None:
                timer.cancel()
