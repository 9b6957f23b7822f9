"""How many generations are under way and how many wait, counted over both doors; beyond that requests go at once.

The counts are locked files in the server's run directory (`wan_t2v.operate.run_directory`), so they hold over all
processes of the server and a process that dies leaves nothing behind.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import UNARY
from wan_t2v.operate.load import in_transit
from wan_t2v.operate.run_directory import (
    IN_TRANSIT,
    RUNNING,
    WAITING,
    Claim,
    Place,
    RunDirectory,
)
from wan_t2v.serving.admission.estimate import Pace
from wan_t2v.serving.admission.options import USUAL, Asked
from wan_t2v.serving.errors import Draining, OutOfTime, Overloaded, ParameterError
from wan_t2v.serving.python_backend.parameters import ModelParameters

POLL_S = 0.1
ORDERS = ("arrival", "short_first")
PRIORITY_S = 60
RULES_FILE = "unary_door.json"


@dataclass(frozen=True)
class Rules:
    """What a door lets in.

    Attributes:
        in_flight, queued: at most so many, of both doors together.
        short_first: whether a request's estimated seconds count as if it had come so much later.
        priority_s: a step of priority counts as if the request had come so much later. Everyone's turn comes: only
            what arrives within these differences can overtake.
    """

    in_flight: int
    queued: int
    short_first: bool = False
    priority_s: float = PRIORITY_S

    @classmethod
    def of_model(cls, parameters: ModelParameters) -> "Rules":
        """From a model's parameters. Raises ParameterError."""
        order = parameters.values.get("queue_order", ORDERS[0])
        if order not in ORDERS:
            raise ParameterError(
                f"{parameters.model}: parameter queue_order is {order!r}, accepted: {', '.join(ORDERS)}"
            )
        chosen = "priority_s" in parameters.values
        return cls(
            parameters.integer("max_in_flight", least=1),
            parameters.integer("max_queued", least=0),
            short_first=order == "short_first",
            priority_s=parameters.integer("priority_s", least=0) if chosen else PRIORITY_S,
        )

    def publish(self, run: RunDirectory) -> None:
        """Tell the process that lets requests of this door in."""
        run.write_json(RULES_FILE, asdict(self))

    @classmethod
    def published(cls, run: RunDirectory) -> "Rules | None":
        """What was published last; None if the process that works for the door never lived."""
        found = run.read_json(RULES_FILE)
        return None if found is None else cls(**found)


class Admission:
    """One door's way to the places that all doors share. `now` is a steady clock that all processes read alike."""

    def __init__(
        self, run: RunDirectory, *, door: str, rules: Rules, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._door, self._rules, self._now = run, door, rules, now
        self._pace = Pace(run, now)
        self._freed = threading.Condition()

    def reserve(self, asked: Asked, generation_id: str) -> None:
        """Let a request in that goes on to another process through Triton's own queue. Raises AdmissionError."""
        with self._run.exclusive():
            self._check(asked)
            self._run.mark(IN_TRANSIT, generation_id)

    def enter(self, asked: Asked, *, reserved_id: str = "") -> "Waiting":
        """Join the queue; a `reserved_id` that was marked as in transit joins in any case. Raises AdmissionError."""
        with self._run.exclusive():
            if not (reserved_id and self._run.unmark(IN_TRANSIT, reserved_id)):
                self._check(asked)
            return Waiting(self._run.take(WAITING, self._claim(asked)), asked)

    def ahead(self, waiting: "Waiting") -> int:
        """How many generations go before one that waits: those that run, and those before it in the queue."""
        with self._run.exclusive():
            before = [claim for claim in self._run.held(WAITING) if claim.order < waiting.place.claim.order]
            return len(self._run.held(RUNNING)) + len(before)

    @contextmanager
    def turn(self, waiting: "Waiting", is_cancelled: Callable[[], bool]) -> Iterator["Turn"]:
        """Wait until it is this request's turn, and hold it.

        Raises Cancelled if the caller leaves the queue, AdmissionError if the deadline passes or a drain begins.
        """
        place = self._wait(waiting, is_cancelled)
        turn = Turn(place, waiting.asked, now=self._now)
        try:
            yield turn
            turn.finish()
        finally:
            place.free()
            with self._freed:
                self._freed.notify_all()
            with suppress(OSError):  # an estimate is not worth a video
                turn.teach(self._pace, sees_the_end=self._door != UNARY)

    def _wait(self, waiting: "Waiting", is_cancelled: Callable[[], bool]) -> Place:
        try:
            while True:
                if waiting.asked.is_late(self._now()):
                    raise OutOfTime("the deadline passed while the request waited for its turn")
                running = self._started(waiting)
                if running is not None:
                    return running
                if is_cancelled():
                    raise Cancelled("cancelled while waiting for its turn")
                if self._run.draining:
                    raise Draining
                with self._freed:
                    self._freed.wait(POLL_S)
        finally:
            waiting.place.free()

    def _started(self, waiting: "Waiting") -> Place | None:
        """A place to run in, if one is free and nobody comes before."""
        with self._run.exclusive():
            if len(self._run.held(RUNNING)) >= self._rules.in_flight:
                return None
            if min(claim.order for claim in self._run.held(WAITING)) < waiting.place.claim.order:
                return None
            running = self._run.take(RUNNING, replace(waiting.place.claim, told=self._now()))
            waiting.place.free()  # in the same moment: a request is never counted twice
            return running

    def _claim(self, asked: Asked) -> Claim:
        now = self._now()
        expected_s = self._pace.estimate_s(asked.work)
        later = (asked.priority - USUAL) * self._rules.priority_s
        if self._rules.short_first:
            later += expected_s or 0.0
        return Claim(self._door, now + later, expected_s, now)

    def _check(self, asked: Asked) -> None:
        if self._run.draining:
            raise Draining
        running, waiting = self._run.held(RUNNING), self._run.held(WAITING)
        queued = len(waiting) + in_transit(self._run)
        if len(running) + queued >= self._rules.in_flight + self._rules.queued:
            raise Overloaded(self._full(running, queued))
        self._check_deadline(asked, running=running, waiting=waiting)

    def _check_deadline(self, asked: Asked, *, running: list[Claim], waiting: list[Claim]) -> None:
        own = self._claim(asked)
        if asked.deadline is None or own.left_s is None:
            return
        before = [claim for claim in waiting if claim.order < own.order]
        work_s = [claim.left_at(self._now()) or 0.0 for claim in running] + [claim.left_s or 0.0 for claim in before]
        free = len(work_s) < self._rules.in_flight
        wait_s = 0.0 if free else sum(work_s) / self._rules.in_flight
        left_s = asked.deadline - self._now()
        if wait_s + own.left_s > left_s:
            raise OutOfTime(
                f"the deadline in {max(0.0, left_s):.1f} s cannot be met: {asked.work} take about {own.left_s:.1f} s, "
                f"after about {wait_s:.1f} s of waiting for {len(work_s)} others"
            )

    def _full(self, running: list[Claim], queued: int) -> str:
        text = (
            f"{len(running)} generations are under way (limit {self._rules.in_flight}) and {queued} wait "
            f"(limit {self._rules.queued}); try again later"
        )
        left = [claim.left_at(self._now()) for claim in running]
        known = [seconds for seconds in left if seconds is not None]
        return f"{text}, in about {max(1, math.ceil(min(known)))} s" if known else text


@dataclass(frozen=True)
class Waiting:
    """A request in the queue."""

    place: Place
    asked: Asked


class Turn:
    """A generation that runs. It tells how much it has left, and its seconds teach the estimate of later ones."""

    def __init__(self, place: Place, asked: Asked, *, now: Callable[[], float]) -> None:
        self._place, self._asked, self._now = place, asked, now
        self._began = self._last_step = now()
        self._steps = 0
        self._ended: float | None = None

    def stepped(self, index: int, count: int) -> None:
        """The `index`-th of `count` steps is done."""
        self._steps, self._last_step = index, self._now()
        left_s = (self._last_step - self._began) / index * (count - index)
        self._place.tell(replace(self._place.claim, left_s=left_s, told=self._last_step))

    def finish(self) -> None:
        """All of it is done."""
        self._ended = self._now()

    def teach(self, pace: Pace, *, sees_the_end: bool) -> None:
        """Tell the estimate what was measured; nothing if no step was done."""
        if self._steps:
            step_s = (self._last_step - self._began) / self._steps
            after_s = self._ended - self._last_step if self._ended is not None and sees_the_end else None
            pace.learn(self._asked.work, step_s=step_s, after_s=after_s)
