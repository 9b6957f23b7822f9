"""What the endpoints' metrics must do beside counting: never meet in Triton, and never hold up or end a generation."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.fakes.pb_utils import FakeMetricFamily, FakePbUtils
from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import Step
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.load import Load
from wan_t2v.serving.errors import (
    AlreadyRunning,
    Draining,
    InvalidFieldUpstream,
    KeyOfAnotherRequest,
    ModelCallError,
    OutOfTime,
    Overloaded,
    outcome,
)
from wan_t2v.serving.python_backend.metrics import Metrics
from wan_t2v.serving.python_backend.responses import error_response

NOTHING = torch.zeros(1)
LOW_NOISE_STEP = Step(
    30, 40, 500, "low_noise_expert", clean_estimate=NOTHING, latents=NOTHING, passes=2, passes_left=20.0
)


class Meeting(FakeMetricFamily):
    """A family that notices two changes at once; Triton's frees the message that it still reads then."""

    under_way = threading.Lock()
    met = False

    def Metric(self, labels: dict[str, str], buckets: Any = ()) -> Any:
        metric = super().Metric(labels, buckets)

        class Slow:
            def _change(self, value: float) -> None:
                if not Meeting.under_way.acquire(blocking=False):
                    Meeting.met = True
                    return
                time.sleep(0.001)  # others run meanwhile, as in a call to the server
                metric.increment(value)
                Meeting.under_way.release()

            increment = set = observe = _change

        return Slow()


def test_threads_never_change_metrics_at_the_same_time() -> None:
    pb_utils = FakePbUtils()
    pb_utils.MetricFamily = Meeting  # type: ignore[misc]
    metrics = Metrics(pb_utils, endpoint="an endpoint")

    def work(index: int) -> None:
        metrics.count_admission()
        metrics.set_load(Load(draining=False, in_flight=1, queued=2, finishing=0, left_s=None))
        metrics.count_step(LOW_NOISE_STEP, 0.1)
        metrics.observe_stage("decode", 0.1)
        metrics.count_frames(4)
        metrics.observe_cancel(0.1)
        metrics.count_end(None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert not Meeting.met
    families = FakeMetricFamily.families
    assert families["wan_t2v_frames_total"].values == {"{'door': 'an endpoint'}": 64.0}
    assert families["wan_t2v_generations_ended_total"].values["{'door': 'an endpoint', 'outcome': 'finished'}"] == 16.0


def test_a_loop_does_not_wait_for_the_server_and_the_end_of_a_request_finds_its_steps_counted() -> None:
    made, served = threading.Event(), threading.Event()

    class Unserved(FakeMetricFamily):
        def Metric(self, labels: dict[str, str], buckets: Any = ()) -> Any:
            if made.is_set() and "expert" in labels:  # a step's
                assert served.wait(10)
            return super().Metric(labels, buckets)

    pb_utils = FakePbUtils()
    pb_utils.MetricFamily = Unserved  # type: ignore[misc]
    metrics = Metrics(pb_utils, endpoint="an endpoint")
    made.set()
    metrics.count_step(LOW_NOISE_STEP, 0.1)  # returns, although the server does not take it
    ended = threading.Thread(target=metrics.count_end, args=(None,), daemon=True)
    ended.start()
    ended.join(0.2)
    assert ended.is_alive()
    served.set()
    ended.join(10)
    assert not ended.is_alive()
    steps = FakeMetricFamily.families["wan_t2v_steps_total"].values
    assert steps == {"{'door': 'an endpoint', 'expert': 'low_noise_expert'}": 1.0}
    metrics.close()


def test_short_steps_are_sent_together_and_long_ones_as_they_end() -> None:
    clock = [0.0]
    metrics = Metrics(FakePbUtils(), endpoint="an endpoint", now=lambda: clock[0])
    sent = FakeMetricFamily.families["wan_t2v_steps_total"].values

    def count_steps(number: int, seconds: float) -> float:
        for _ in range(number):
            clock[0] += seconds
            metrics.count_step(LOW_NOISE_STEP, seconds)
        metrics._thread.submit(lambda: None).result()  # what was sent before it is applied
        return sum(sent.values())

    assert count_steps(2, 0.1) == 0
    assert count_steps(1, 0.1) == 3
    assert count_steps(2, 0.1) == 3
    assert [count_steps(1, 30.0) for _ in range(2)] == [6, 7]
    assert count_steps(1, 0.1) == 7
    metrics.close()
    assert sum(sent.values()) == 8


CALLERS_CODES = {"INVALID_ARG", "ALREADY_EXISTS", "CANCELLED"}
ENDED = {
    InvalidField("height", 100, "a multiple of 16"): "refused_invalid",
    InvalidFieldUpstream("prepare", "height: got 100", "INVALID_ARG", field="height"): "refused_invalid",
    KeyOfAnotherRequest("used for a request with other fields"): "refused_invalid",
    AlreadyRunning("being worked on"): "refused_invalid",
    Cancelled("cancelled after step 1 of 4"): "cancelled",
    Overloaded("no place is free"): "refused_overloaded",
    OutOfTime("cannot be met"): "refused_deadline",
    Draining(): "refused_draining",
    ModelCallError("low_noise_expert", "out of memory", "INTERNAL"): "failed",
    ModelCallError("low_noise_expert", "is not ready", "UNAVAILABLE"): "failed",
    KeyError("a fault of ours"): "failed",
}


@pytest.mark.parametrize(("error", "expected"), ENDED.items(), ids=lambda value: getattr(value, "args", (value,))[0])
def test_only_what_an_operator_must_see_counts_as_failed(error: Exception, expected: str) -> None:
    """The code that the caller gets and the outcome that the operator gets agree on whose fault it was."""
    assert outcome(error) == expected
    code = error_response(FakePbUtils(), error).error().code()
    assert (code in CALLERS_CODES) == (expected in ("refused_invalid", "cancelled"))


def test_a_figure_that_triton_does_not_take_costs_a_line_in_the_log() -> None:
    class Refusing(FakeMetricFamily):
        def Metric(self, labels: dict[str, str], buckets: Any = ()) -> Any:
            if "stage" in labels:
                raise RuntimeError("no such family")
            return super().Metric(labels, buckets)

    pb_utils = FakePbUtils()
    pb_utils.MetricFamily = Refusing  # type: ignore[misc]
    metrics = Metrics(pb_utils, endpoint="an endpoint")
    metrics.observe_stage("decode", 0.1)
    metrics.count_frames(5)
    metrics.close()
    assert pb_utils.logged == ["wan_t2v_stage_seconds: RuntimeError: no such family"]
    assert FakeMetricFamily.families["wan_t2v_frames_total"].values == {"{'door': 'an endpoint'}": 5.0}


def test_a_reused_step_is_counted_as_such_and_its_seconds_are_none_of_a_pass() -> None:
    metrics = Metrics(FakePbUtils(), endpoint="an endpoint")
    metrics.count_step(LOW_NOISE_STEP, 0.1)
    metrics.count_step(replace(LOW_NOISE_STEP, passes=0), 0.001)
    metrics.close()
    low = "{'door': 'an endpoint', 'expert': 'low_noise_expert'}"
    families = FakeMetricFamily.families
    assert families["wan_t2v_steps_total"].values[low] == 2.0
    assert families["wan_t2v_reused_steps_total"].values[low] == 1.0
    assert families["wan_t2v_step_seconds"].values[low] == 0.1
