"""Limits running and queued generations across both endpoints; rejects the excess immediately.

Each generation holds a locked file in the server's run directory (`wan_t2v.operate.run_directory`). So the counts
cover all processes of the server, and a process that dies leaves nothing behind.
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
    PREPARING,
    RUNNING,
    WAITING,
    RunDirectory,
    Slot,
    SlotInfo,
)
from wan_t2v.serving.admission.estimate import DurationEstimator
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.running_generation import RunningGeneration
from wan_t2v.serving.errors import Draining, OutOfTime, Overloaded
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.request_options import DEFAULT_PRIORITY

POLL_S = 0.1
PRIORITY_S = 60
LIMITS_FILE = "unary_door.json"


@dataclass(frozen=True)
class AdmissionLimits:
    """Admission limits of an endpoint.

    Attributes:
        in_flight, queued: most running and waiting generations, of both endpoints together.
        priority_s: seconds by which each level of priority moves a request in the queue. No request starves: only
            requests that arrive within this difference can overtake it.
    """

    in_flight: int
    queued: int
    priority_s: float = PRIORITY_S

    @classmethod
    def of_model(cls, parameters: ModelParameters) -> "AdmissionLimits":
        """Read the limits from a model's parameters. Raises ParameterError."""
        chosen = "priority_s" in parameters.values
        return cls(
            parameters.integer("max_in_flight", least=1),
            parameters.integer("max_queued", least=0),
            priority_s=parameters.integer("priority_s", least=0) if chosen else PRIORITY_S,
        )

    def publish(self, run: RunDirectory) -> None:
        """Publish the limits to `prepare`, which admits the unary endpoint's requests."""
        run.write_json(LIMITS_FILE, asdict(self))

    @classmethod
    def read_published(cls, run: RunDirectory) -> "AdmissionLimits | None":
        """Read the limits that were published last; None if the denoiser has never started."""
        found = run.read_json(LIMITS_FILE)
        return None if found is None else cls(**found)


class Admission:
    """Admission at one endpoint, to slots that both endpoints share. `now` is a steady clock of the whole machine."""

    def __init__(
        self, run: RunDirectory, *, endpoint: str, limits: AdmissionLimits, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._endpoint, self._limits, self._now = run, endpoint, limits, now
        self._estimator = DurationEstimator(run, now)
        self._freed = threading.Condition()

    @contextmanager
    def preparing(self, options: QueueOptions, generation_id: str) -> Iterator[None]:
        """Admit a request, and hold its place while its prompts are encoded within the context.

        At the end the request is marked as in transit to the denoiser, through Triton's own queue; a failure frees its
        place. Raises AdmissionError.
        """
        with self._run.exclusive():
            self._check(options)
            slot = self._run.acquire(PREPARING, self._info(options))
        try:
            yield
            with self._run.exclusive():
                self._run.mark(IN_TRANSIT, generation_id, slot.info)
                slot.free()  # under the same lock, so that a request is never counted twice
        finally:
            slot.free()

    def enter(self, options: QueueOptions, *, reserved_id: str = "") -> "QueueTicket":
        """Join the queue. Raises AdmissionError.

        A request whose `reserved_id` is marked as in transit is not checked again, and keeps the place in the queue
        that it got when it was marked.
        """
        with self._run.exclusive():
            info, reserved = self._info(options), self._run.marked(IN_TRANSIT).get(reserved_id)
            if reserved is None:
                self._check(options)
            else:
                self._run.unmark(IN_TRANSIT, reserved_id)
                info = replace(info, order=reserved.order)
            return QueueTicket(self._run.acquire(WAITING, info), options)

    def ahead(self, ticket: "QueueTicket") -> int:
        """Count the generations before a waiting one: all that run, and those earlier in the queue."""
        with self._run.exclusive():
            before = [info for info in self._queued() if info.order < ticket.slot.info.order]
            return len(self._run.occupied(RUNNING)) + len(before)

    def _queued(self) -> list[SlotInfo]:
        """Return the reports of the requests that wait here, are prepared, or are in Triton's own queue."""
        in_transit(self._run)  # removes the marks of requests that have ended
        held = [info for kind in (WAITING, PREPARING) for info in self._run.occupied(kind)]
        return [*held, *self._run.marked(IN_TRANSIT).values()]

    @contextmanager
    def turn(self, ticket: "QueueTicket", is_cancelled: Callable[[], bool]) -> Iterator[RunningGeneration]:
        """Wait until this request may run, and hold its running slot within the context.

        Raises Cancelled if the caller cancels while it waits, AdmissionError if the deadline passes or a drain begins.
        """
        slot = self._wait(ticket, is_cancelled)
        turn = RunningGeneration(slot, ticket.options, now=self._now)
        try:
            yield turn
            turn.finish()
        finally:
            slot.free()
            with self._freed:
                self._freed.notify_all()
            with suppress(OSError):  # a failed estimate must not fail the video
                turn.record_duration(self._estimator, sees_the_end=self._endpoint != UNARY)

    def _wait(self, ticket: "QueueTicket", is_cancelled: Callable[[], bool]) -> Slot:
        try:
            while True:
                if ticket.options.is_late(self._now()):
                    raise OutOfTime("the deadline passed while the request waited for its turn")
                running = self._start_if_due(ticket)
                if running is not None:
                    return running
                if is_cancelled():
                    raise Cancelled("cancelled while waiting for its turn")
                if self._run.draining:
                    raise Draining
                with self._freed:
                    self._freed.wait(POLL_S)
        finally:
            ticket.slot.free()

    def _start_if_due(self, ticket: "QueueTicket") -> Slot | None:
        """Acquire a running slot if one is free and no other request goes first; else None."""
        with self._run.exclusive():
            if len(self._run.occupied(RUNNING)) >= self._limits.in_flight:
                return None
            if min(info.order for info in self._run.occupied(WAITING)) < ticket.slot.info.order:
                return None
            running = self._run.acquire(RUNNING, replace(ticket.slot.info, reported_at=self._now()))
            ticket.slot.free()  # under the same lock, so that a request is never counted twice
            return running

    def _info(self, options: QueueOptions) -> SlotInfo:
        now = self._now()
        expected_s = self._estimator.estimate_s(options.work, steps_done=options.steps_done)
        later = (options.priority - DEFAULT_PRIORITY) * self._limits.priority_s
        return SlotInfo(self._endpoint, now + later, expected_s, now)

    def _check(self, options: QueueOptions) -> None:
        if self._run.draining:
            raise Draining
        running, queued = self._run.occupied(RUNNING), self._queued()
        if len(running) + len(queued) >= self._limits.in_flight + self._limits.queued:
            raise self._overloaded(running, len(queued))
        self._check_deadline(options, running=running, queued=queued)

    def _check_deadline(self, options: QueueOptions, *, running: list[SlotInfo], queued: list[SlotInfo]) -> None:
        own = self._info(options)
        if options.deadline is None or own.left_s is None:
            return
        before = [info for info in queued if info.order < own.order]
        work_s = [info.left_at(self._now()) or 0.0 for info in running] + [info.left_s or 0.0 for info in before]
        free = len(work_s) < self._limits.in_flight
        wait_s = 0.0 if free else sum(work_s) / self._limits.in_flight
        left_s = options.deadline - self._now()
        if wait_s + own.left_s > left_s:
            raise OutOfTime(
                f"the deadline in {max(0.0, left_s):.1f} s cannot be met: {options.work_left} take about "
                f"{own.left_s:.1f} s, after about {wait_s:.1f} s of waiting for {len(work_s)} others"
            )

    def _overloaded(self, running: list[SlotInfo], queued: int) -> Overloaded:
        text = (
            f"{len(running)} generations are under way (limit {self._limits.in_flight}) and {queued} wait "
            f"(limit {self._limits.queued}); try again later"
        )
        left = [info.left_at(self._now()) for info in running]
        known = [seconds for seconds in left if seconds is not None]
        if not known:
            return Overloaded(text)
        retry_after_s = max(1, math.ceil(min(known)))
        return Overloaded(f"{text}, in about {retry_after_s} s", retry_after_s=retry_after_s)


@dataclass(frozen=True)
class QueueTicket:
    """A request in the queue."""

    slot: Slot
    options: QueueOptions
