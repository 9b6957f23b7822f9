"""One request at the streaming endpoint, from the queue to its last response."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import QueueTicket
from wan_t2v.serving.models.stream_responses import ResponseStream
from wan_t2v.serving.python_backend.tracing import Trace
from wan_t2v.serving.request_options import RequestOptions
from wan_t2v.serving.resume.resume import CheckpointWriter


class CallerLiveness:
    """Whether the caller is still there, and when that was last known."""

    def __init__(self, is_cancelled: Callable[[], bool], options: QueueOptions) -> None:
        self._is_cancelled, self._options = is_cancelled, options
        self._there = time.monotonic()

    def has_left(self) -> bool:
        """Ask the server; who gave a deadline leaves when it passes."""
        now = time.monotonic()
        if self._options.is_late(now) or self._is_cancelled():
            return True
        self._there = now
        return False

    def seconds_since_there(self) -> float:
        """At most this long the work ran on for nobody."""
        return time.monotonic() - self._there


@dataclass(frozen=True)
class StreamRequest:
    """What belongs to one request.

    Attributes:
        request: Triton's.
        options: its parameters.
        waiting: its place in the queue.
        caller, responses: who asks, and what is sent to them.
        keeping: where it is kept for a restart, if it is.
        trace: its spans.
        held: what is given back at its end.
    """

    request: Any
    options: RequestOptions
    ticket: QueueTicket
    caller: CallerLiveness
    responses: ResponseStream
    keeping: CheckpointWriter | None
    trace: Trace
    held: contextlib.ExitStack

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to this stage: told by heartbeats, and a span."""
        self.responses.enter_stage(name)
        with self.trace.span(name):
            yield
