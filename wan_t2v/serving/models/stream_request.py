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
    """Cancellation state of a caller, and the time when it was last known to wait."""

    def __init__(self, is_cancelled: Callable[[], bool], options: QueueOptions) -> None:
        self._is_cancelled, self._options = is_cancelled, options
        self._there = time.monotonic()

    def has_left(self) -> bool:
        """Whether the caller has cancelled, or the deadline has passed."""
        now = time.monotonic()
        if self._options.is_late(now) or self._is_cancelled():
            return True
        self._there = now
        return False

    def seconds_since_there(self) -> float:
        """Seconds since the caller was last known to wait: an upper bound of the work done in vain."""
        return time.monotonic() - self._there


@dataclass(frozen=True)
class StreamRequest:
    """The objects of one request.

    Attributes:
        request: Triton's request.
        options: its parameters.
        ticket: its place in the queue.
        caller, responses: cancellation state of its caller, and the responses to it.
        checkpoint: writer of its checkpoints; None without an idempotency key.
        trace: its spans.
    """

    request: Any
    options: RequestOptions
    ticket: QueueTicket
    caller: CallerLiveness
    responses: ResponseStream
    checkpoint: CheckpointWriter | None
    trace: Trace

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Enter a stage: heartbeats name it, and a span covers everything inside."""
        self.responses.enter_stage(name)
        with self.trace.span(name):
            yield
