"""How many run, how many wait, who is next, and what is told to those who must go: over threads and processes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.child_process import child_process
from wan_t2v.cancellation import Cancelled
from wan_t2v.contract import UNARY
from wan_t2v.operate.load import LOOPS, TRANSIT_S, load_of
from wan_t2v.operate.run_directory import IN_TRANSIT, RUNNING, RunDirectory, SlotInfo
from wan_t2v.serving.admission.estimate import DurationEstimator, Workload
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits, QueueTicket
from wan_t2v.serving.errors import Draining, OutOfTime, Overloaded

STAYS: Callable[[], bool] = lambda: False  # noqa: E731 - the name says what the caller does
SHORT, LONG = Workload(64, 64, 17, 10, guided=True), Workload(64, 64, 17, 100, guided=True)
STREAM = "text_to_video_stream"


class Clock:
    """Seconds that pass when they are told to, from the true ones on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def run(run_directory: Path) -> RunDirectory:
    return RunDirectory.of_server(run_directory, os.getpid())


def admission(run: RunDirectory, in_flight: int, queued: int, *, endpoint: str = STREAM, **limits: float) -> Admission:
    return Admission(run, endpoint=endpoint, limits=AdmissionLimits(in_flight, queued, **limits))


def options(work: Workload = SHORT, *, within_s: float | None = None, priority: int = 5) -> QueueOptions:
    return QueueOptions(work, None if within_s is None else time.monotonic() + within_s, priority)


def send(admission: Admission, options: QueueOptions, generation_id: str) -> None:
    """Admit a request of the unary endpoint whose prompts take no time, and send it on to the denoiser."""
    with admission.preparing(options, generation_id):
        pass


class Held:
    """A generation in a thread of its own that runs until it is released."""

    def __init__(self, admission: Admission, ticket: QueueTicket, *, is_cancelled: Callable[[], bool] = STAYS) -> None:
        self.running, self.released = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(admission, ticket, is_cancelled), daemon=True)
        self._thread.start()

    def _run(self, admission: Admission, ticket: QueueTicket, is_cancelled: Callable[[], bool]) -> None:
        try:
            with admission.turn(ticket, is_cancelled):
                self.running.set()
                assert self.released.wait(120)
        except Exception as error:
            self.error = error

    def end(self) -> None:
        self.released.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_no_more_than_the_limit_run_and_the_next_in_line_follows(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 1)
    first = Held(endpoint, endpoint.enter(options()))
    assert first.running.wait(60)
    second = Held(endpoint, endpoint.enter(options()))
    assert not second.running.wait(0.3)
    assert (load_of(run).in_flight, load_of(run).queued) == (1, 1)
    first.end()
    assert second.running.wait(60)
    second.end()
    assert load_of(run).is_empty


def test_two_endpoints_share_the_places(run: RunDirectory) -> None:
    stream, unary = admission(run, 1, 1), admission(run, 1, 1, endpoint=UNARY)
    running = Held(stream, stream.enter(options()))
    assert running.running.wait(60)
    ticket = Held(unary, unary.enter(options()))
    assert not ticket.running.wait(0.3)
    for endpoint in (stream, unary):
        with pytest.raises(Overloaded):
            endpoint.enter(options())
    running.end()
    assert ticket.running.wait(60)
    ticket.end()


def test_one_too_many_is_refused_at_once_with_the_depth_and_when_to_try_again(run: RunDirectory) -> None:
    DurationEstimator(run).record(SHORT, step_s=2.0, after_s=1.0)
    endpoint = admission(run, 2, 0)
    holders = [Held(endpoint, endpoint.enter(options())) for _ in range(2)]
    assert all(holder.running.wait(60) for holder in holders)
    with pytest.raises(Overloaded, match=r"2 generations are under way \(limit 2\) and 0 wait .* in about 2[01] s"):
        endpoint.enter(options())
    for holder in holders:
        holder.end()


def test_a_lower_priority_number_goes_first_and_equals_in_order(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 3)
    running = Held(endpoint, endpoint.enter(options()))
    assert running.running.wait(60)
    late = [Held(endpoint, endpoint.enter(options(priority=priority))) for priority in (5, 5, 1)]
    running.end()
    assert late[2].running.wait(60) and not late[0].running.is_set() and not late[1].running.is_set()
    late[2].end()
    assert late[0].running.wait(60) and not late[1].running.is_set()
    late[0].end()
    late[1].end()


def test_nobody_waits_for_ever_behind_those_who_go_first(run: RunDirectory) -> None:
    """The last in priority goes before a first one that comes later than the levels between them are worth."""
    clock = Clock()
    endpoint = Admission(run, endpoint=STREAM, limits=AdmissionLimits(1, 3, priority_s=60), now=clock)
    running = Held(endpoint, endpoint.enter(options()))
    assert running.running.wait(60)
    last = Held(endpoint, endpoint.enter(options(priority=9)))
    clock.ahead = 8 * 60 + 1
    first = Held(endpoint, endpoint.enter(options(priority=1)))
    running.end()
    assert last.running.wait(60) and not first.running.is_set()
    last.end()
    first.end()


def test_a_caller_who_leaves_the_queue_makes_room(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 1)
    running = Held(endpoint, endpoint.enter(options()))
    assert running.running.wait(60)
    gone = Held(endpoint, endpoint.enter(options()), is_cancelled=lambda: True)
    gone.end()
    assert isinstance(gone.error, Cancelled)
    endpoint.enter(options()).slot.free()
    running.end()


def test_a_generation_that_fails_gives_its_place_back(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 0)
    with pytest.raises(ZeroDivisionError), endpoint.turn(endpoint.enter(options()), STAYS):
        raise ZeroDivisionError
    endpoint.enter(options()).slot.free()


def test_a_deadline_that_the_estimate_misses_is_refused_early_with_the_figures(run: RunDirectory) -> None:
    DurationEstimator(run).record(SHORT, step_s=1.0, after_s=5.0)
    endpoint = admission(run, 1, 4)
    with pytest.raises(OutOfTime, match=r"in 12\.\d s cannot be met: 10 steps of 64x64x17 take about 15\.0 s"):
        endpoint.enter(options(within_s=12.5))
    running = Held(endpoint, endpoint.enter(options(within_s=20)))
    assert running.running.wait(60)
    with pytest.raises(OutOfTime, match=r"after about 1[45]\.\d s of waiting for 1 others"):
        endpoint.enter(options(within_s=20))
    running.end()


def test_without_measurements_no_deadline_is_refused(run: RunDirectory) -> None:
    admission(run, 1, 0).enter(options(within_s=0.001)).slot.free()


def test_a_deadline_that_passes_in_the_queue_ends_the_wait(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 1)
    running = Held(endpoint, endpoint.enter(options()))
    assert running.running.wait(60)
    late = Held(endpoint, endpoint.enter(options(within_s=0.3)))
    late.end()  # it ends by its deadline alone: the slot stays occupied
    assert isinstance(late.error, OutOfTime)
    running.end()


def test_a_drain_refuses_new_and_waiting_requests_and_lets_running_ones_end(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 1)
    running = Held(endpoint, endpoint.enter(options()))
    assert running.running.wait(60)
    ticket = Held(endpoint, endpoint.enter(options()))
    run.drain()
    ticket.end()
    assert isinstance(ticket.error, Draining)
    with pytest.raises(Draining, match="takes no new work"):
        endpoint.enter(options())
    with pytest.raises(Draining):
        send(endpoint, options(), "1")
    running.end()
    assert running.error is None
    run.undrain()
    endpoint.enter(options()).slot.free()


def test_what_is_on_its_way_to_the_denoiser_counts_and_is_taken_over(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 1, endpoint=UNARY)
    send(endpoint, options(), "1")
    send(endpoint, options(), "2")
    with pytest.raises(Overloaded, match=r"0 generations are under way \(limit 1\) and 2 wait"):
        send(endpoint, options(), "3")
    with endpoint.turn(endpoint.enter(options(), reserved_id="1"), STAYS):
        assert (load_of(run).in_flight, load_of(run).queued) == (1, 1)


@pytest.mark.parametrize(
    ("busy", "moved_s_ago", "queued"),
    [
        (True, 60.0, 1),  # it may wait in Triton's queue for the one denoiser
        (False, 0.1, 1),  # the next in Triton's queue is on its way
        (False, 60.0, 0),
    ],
)
def test_a_mark_whose_request_died_is_forgotten_once_a_denoiser_is_idle(
    busy: bool, moved_s_ago: float, queued: int, run: RunDirectory
) -> None:
    loop = run.acquire(LOOPS, SlotInfo(UNARY, reported_at=time.monotonic() - moved_s_ago))
    running = run.acquire(RUNNING, SlotInfo(UNARY)) if busy else None
    (run.path / IN_TRANSIT / f"{time.monotonic_ns() - int((TRANSIT_S + 1) * 1e9):020d}-a").touch()
    assert load_of(run).queued == queued
    for place in (loop, running):
        if place is not None:
            place.free()


@contextlib.contextmanager
def other_process(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Another process of the same server that runs a generation."""
    code = (
        "import pathlib, sys, time\n"
        "from wan_t2v.operate.run_directory import RUNNING, RunDirectory, SlotInfo\n"
        "place = RunDirectory(pathlib.Path(sys.argv[1])).acquire(RUNNING, SlotInfo('text_to_video', left_s=9.0, reported_at=0.0))\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with child_process([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_process_gives_its_place_back(run: RunDirectory) -> None:
    endpoint = admission(run, 1, 0)
    with other_process(run) as process:
        assert load_of(run).in_flight == 1
        with pytest.raises(Overloaded):
            endpoint.enter(options())
        process.send_signal(signal.SIGKILL)
        process.wait()
        endpoint.enter(options()).slot.free()
    assert load_of(run).is_empty
