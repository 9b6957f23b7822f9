"""How many generations the streaming door has under way and how many wait; beyond that it refuses at once."""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from wan_t2v.cancellation import Cancelled

SMOOTHING = 0.3  # weight of the newest generation in the mean of their seconds
CANCEL_POLL_S = 0.1


class Overloaded(Exception):
    """No place is free, or not in time; the message says how full it is and when to try again."""


@dataclass(frozen=True)
class Load:
    """How full the door is. `generation_s` is the mean of recent generations, None before the first ended."""

    in_flight: int
    queued: int
    generation_s: float | None


@dataclass(order=True)
class Place:
    """A request's place in the queue: lower `priority` first, then the order of arrival."""

    priority: int
    arrival: int
    entered: float = field(compare=False)


class Admission:
    """At most `in_flight` generations at once and `max_queued` waiting.

    `now` gives seconds on any steady clock; `changed` is told the load after each change.
    The state belongs to one process and ends with it; nothing is left behind to clean up.
    """

    def __init__(
        self,
        in_flight: int,
        *,
        max_queued: int,
        now: Callable[[], float] = time.monotonic,
        changed: Callable[[Load], None] = lambda load: None,
    ) -> None:
        self._limit, self._max_queued, self._now, self._told = in_flight, max_queued, now, changed
        self._changed = threading.Condition()
        self._arrivals = itertools.count()
        self._waiting: list[Place] = []
        self._running = 0
        self._generation_s: float | None = None

    @property
    def load(self) -> Load:
        """How full it is now."""
        with self._changed:
            return Load(self._running, len(self._waiting), self._generation_s)

    def enter(self, priority: int = 0) -> Place:
        """Take a place in the queue. Raises Overloaded if there is none."""
        with self._changed:
            if self._running + len(self._waiting) >= self._limit + self._max_queued:
                raise Overloaded(self._full())
            place = Place(priority, next(self._arrivals), self._now())
            heapq.heappush(self._waiting, place)
            self._tell()
            return place

    @contextmanager
    def turn(self, place: Place, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait until it is this place's turn, and hold it. Raises Cancelled if the caller leaves the queue."""
        self._wait(place, is_cancelled)
        started = self._now()
        try:
            yield
            self._learn(self._now() - started)
        finally:
            with self._changed:
                self._running -= 1
                self._tell()

    def _wait(self, place: Place, is_cancelled: Callable[[], bool]) -> None:
        with self._changed:
            while self._waiting[0] is not place or self._running >= self._limit:
                self._changed.wait(CANCEL_POLL_S)
                if is_cancelled():
                    self._leave(place)
                    raise Cancelled("cancelled while waiting for its turn")
            heapq.heappop(self._waiting)
            self._running += 1
            self._tell()

    def _leave(self, place: Place) -> None:
        self._waiting = [other for other in self._waiting if other is not place]
        heapq.heapify(self._waiting)
        self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        self._told(Load(self._running, len(self._waiting), self._generation_s))

    def _learn(self, seconds: float) -> None:
        with self._changed:
            known = self._generation_s
            self._generation_s = seconds if known is None else known + SMOOTHING * (seconds - known)

    def _full(self) -> str:
        text = (
            f"{self._running} generations are under way (limit {self._limit}) and {len(self._waiting)} wait "
            f"(limit {self._max_queued}); try again later"
        )
        if self._generation_s is None:
            return text
        return f"{text}, in about {math.ceil(self._generation_s / self._limit)} s"
