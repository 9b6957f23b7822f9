"""Time limits for slow callers: uvicorn waits for ever for a request's head, and for a caller to read the response."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from wan_t2v_gateway.api.errors import error_response

_NO_HTTP = "this is no HTTP request, or its head is longer than 64 KiB"


class BoundedConnection(H11Protocol):
    """A connection that is closed if a request's head is late, or if the caller does not read the response.

    Attributes:
        head_s: limit in seconds from the first byte (or the connection's start) to the end of the head.
        reader_s: limit in seconds on how long the buffer of written bytes may stay full.
        read_bytes: bytes per read. In chunks of one byte, 16 KiB take h11 about 35 ms, which blocks all other callers.
        rest_s, rest_bytes: limits on the rest of a body after an early response. The rest is read and dropped: a
            caller whose connection is closed while it sends might not read the response.
    """

    head_s = 20.0
    reader_s = 60.0
    read_bytes = 2**14
    rest_s = 2.0
    rest_bytes = 2 * 2**20

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._rest_length = 0

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for the first head."""
        super().connection_made(transport)
        transport.max_size = self.read_bytes  # asyncio's attribute for the bytes per read
        self._head = self.loop.call_later(self.head_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Start the limit at a head's first part, and stop it at its end. Bodies have their own limit (api/body.py)."""
        if self._rest is not None and not self._throws_away_less(len(data)):
            return
        super().data_received(data)
        incomplete = self.conn.their_state is h11.IDLE
        if incomplete and self._head is None:
            self._head = self.loop.call_later(self.head_s, self.transport.abort)
        elif not incomplete and self._head is not None:
            self._head.cancel()
            self._head = None
        if self._rest is not None and self.conn.our_state is not h11.DONE:  # the body has ended
            self._rest.cancel()
            self._rest = None

    def on_response_complete(self) -> None:
        """After a response before the end of the body, start the limit on the rest of the body."""
        super().on_response_complete()
        if (self.conn.our_state, self.conn.their_state) == (h11.DONE, h11.SEND_BODY):
            self._throw_away()

    def _throw_away(self) -> None:
        self._rest_length = 0
        self._rest = self.loop.call_later(self.rest_s, self.transport.abort)

    def _throws_away_less(self, length: int) -> bool:
        """Whether h11 may parse the dropped bytes: they are within the limit, and still valid HTTP."""
        self._rest_length += length
        if self._rest_length > self.rest_bytes:
            self.transport.abort()
            return False
        return self.conn.their_state is not h11.ERROR

    def send_400_response(self, msg: str) -> None:
        """Send the error in the format of all others; within another response, only close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = bytes(error_response(400, _NO_HTTP).body)
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
        if self.cycle is not None:  # the running handler has no caller to answer any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._throw_away()

    def pause_writing(self) -> None:
        """The write buffer is full: start the limit for the caller to read."""
        super().pause_writing()
        self._reader = self.loop.call_later(self.reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller has read enough: stop the limit."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all limits."""
        super().connection_lost(exc)
        for timer in (self._head, self._reader, self._rest):
            if timer is not None:
                timer.cancel()
