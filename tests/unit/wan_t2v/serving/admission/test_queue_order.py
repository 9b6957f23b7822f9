"""Requests of the unary endpoint wait in Triton's own queue. They keep their place among those who wait here."""

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.wan_t2v.serving.admission.test_ensemble_gate import SETTINGS
from tests.unit.wan_t2v.serving.admission.test_queue import SHORT, STREAM, Held, admission, options, run, send
from tests.unit.wan_t2v.serving.admission.test_running_generation import StoppedClock
from wan_t2v.contract import UNARY
from wan_t2v.operate.drain import drain
from wan_t2v.operate.load import LOOPS, load_of
from wan_t2v.operate.run_directory import IN_TRANSIT, PREPARING, RunDirectory, SlotInfo
from wan_t2v.serving.admission.ensemble_gate import PendingAdmission
from wan_t2v.serving.admission.estimate import DurationEstimator
from wan_t2v.serving.admission.options import QueueOptions
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.serving.errors import Draining, OutOfTime
from wan_t2v.serving.request_options import RequestOptions

NO_METRICS: Any = SimpleNamespace(count_admission=lambda: None)
__all__ = ["run"]  # the fixture


@pytest.fixture(autouse=True)
def busy_denoiser(run: RunDirectory) -> Iterator[None]:
    """A denoiser that has just had work: else marks of five seconds ago are taken for those of dead requests."""
    slot = run.acquire(LOOPS, SlotInfo(UNARY, reported_at=time.monotonic() + 1e6))
    yield
    slot.free()


def test_one_that_came_first_goes_first_whichever_endpoint_it_came_through(run: RunDirectory) -> None:
    stream, unary = admission(run, 1, 4), admission(run, 1, 4, endpoint=UNARY)
    running = Held(stream, stream.enter(options()))
    assert running.running.wait(60)
    send(unary, options(), "1")
    later = stream.enter(options())
    assert stream.ahead(later) == 2
    first = unary.enter(options(), reserved_id="1")  # as a denoiser becomes free
    assert first.slot.info.order < later.slot.info.order
    assert unary.ahead(first) == 1
    second = Held(stream, later)
    made = Held(unary, first)
    running.end()
    assert made.running.wait(60)
    assert not second.running.is_set()
    made.end()
    assert second.running.wait(60)
    second.end()


def test_work_in_tritons_queue_counts_for_a_deadline(run: RunDirectory) -> None:
    DurationEstimator(run).record(SHORT, step_s=1.0, after_s=0.0)
    endpoint = admission(run, 1, 8, endpoint=UNARY)
    for number in range(4):
        send(endpoint, options(), str(number))
    with pytest.raises(OutOfTime, match=r"after about 40\.0 s of waiting for 4 others"):
        send(endpoint, options(within_s=30.0), "late")
    send(endpoint, options(within_s=60.0), "in time")


def test_a_higher_priority_waits_for_none_of_them(run: RunDirectory) -> None:
    DurationEstimator(run).record(SHORT, step_s=1.0, after_s=0.0)
    endpoint = admission(run, 1, 8, endpoint=UNARY)
    for number in range(4):
        send(endpoint, options(), str(number))
    send(endpoint, options(within_s=30.0, priority=1), "urgent")
    assert min(run.marked(IN_TRANSIT).items(), key=lambda item: item[1].order)[0] == "urgent"


def test_what_a_checkpoint_has_already_does_not_count_for_its_deadline(run: RunDirectory) -> None:
    clock = StoppedClock()
    DurationEstimator(run, clock).record(SHORT, step_s=1.0, after_s=0.5)
    endpoint = Admission(run, endpoint=STREAM, limits=AdmissionLimits(1, 8), now=clock)
    soon = clock() + 3.0
    with pytest.raises(OutOfTime, match=r"10 steps of 64x64x17 take about 10\.5 s"):
        endpoint.enter(QueueOptions(SHORT, soon))
    ticket = endpoint.enter(QueueOptions(SHORT, soon, steps_done=8))
    assert ticket.slot.info.left_s == pytest.approx(2.5)
    ticket.slot.free()
    endpoint.enter(QueueOptions(SHORT, soon, steps_done=10)).slot.free()


def test_a_place_outlasts_a_long_encoding_of_the_prompts(run: RunDirectory) -> None:
    AdmissionLimits(1, 8).publish(run)
    with contextlib.ExitStack() as until_prepared:
        pending = PendingAdmission(RequestOptions(), run, NO_METRICS, 100, until_prepared)
        generation = pending.settle(SETTINGS)
        (place,) = run.occupied(PREPARING)
        assert run.clear(IN_TRANSIT, older_than_s=0.0) == 0  # as happens while the denoiser is idle for five seconds
        assert load_of(run).queued == 1
    assert run.marked(IN_TRANSIT) == {generation.id: place}
    assert not run.occupied(PREPARING) and load_of(run).queued == 1


def test_a_drain_waits_for_prompts_that_are_encoded(run: RunDirectory) -> None:
    preparing = admission(run, 1, 1, endpoint=UNARY).preparing(options(), "1")
    with preparing:
        assert not drain(run, wait_s=0.0, tell=lambda line: None)
        with pytest.raises(Draining):
            send(admission(run, 1, 1, endpoint=UNARY), options(), "2")
    assert run.marked(IN_TRANSIT).keys() == {"1"}
