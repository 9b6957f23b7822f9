"""One request at the streaming door, from its place in the queue to its last response."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from wan_t2v.serving.admission.options import Asked
from wan_t2v.serving.admission.queue import Waiting
from wan_t2v.serving.models.stream_responses import News
from wan_t2v.serving.python_backend.tracing import Trace
from wan_t2v.serving.resume.resume import Keeping


class Caller:
    """Whether the caller is still there, and when that was last known."""

    def __init__(self, is_cancelled: Callable[[], bool], asked: Asked) -> None:
        self._is_cancelled, self._asked = is_cancelled, asked
        self._there = time.monotonic()

    def has_left(self) -> bool:
        """Ask the server; who gave a deadline leaves when it passes."""
        now = time.monotonic()
        if self._asked.is_late(now) or self._is_cancelled():
            return True
        self._there = now
        return False

    def seconds_since_there(self) -> float:
        """At most this long the work ran on for nobody."""
        return time.monotonic() - self._there


@dataclass(frozen=True)
class Underway:
    """What belongs to one request.

    Attributes:
        request: Triton's.
        waiting: its place in the queue.
        caller, news: who asked, and what they are told.
        keeping: where it is kept for a restart, if it is.
        trace: its spans.
        held: what is given back at its end.
    """

    request: Any
    waiting: Waiting
    caller: Caller
    news: News
    keeping: Keeping | None
    trace: Trace
    held: contextlib.ExitStack

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to this stage: told by heartbeats, and a span."""
        self.news.entered(name)
        with self.trace.span(name):
            yield
