"""What a running generation tells of its seconds: to those who wait now, and to the estimates for later ones."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from tests.unit.wan_t2v.serving.admission.test_queue import SHORT, STAYS, STREAM, Clock, admission, options, run
from wan_t2v.denoise import Step
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory, Slot
from wan_t2v.serving.admission.estimate import SHARES_FILE, DurationEstimator
from wan_t2v.serving.admission.queue import Admission, AdmissionLimits
from wan_t2v.step_profiles.profile import StepProfile

__all__ = ["run"]  # the fixture
LOAD_S, STEP_S = 60.0, 0.5


def done_step(index: int, passes: int) -> Step:
    nothing = torch.zeros(1)
    return Step(index, 10, 500.0, "low_noise_expert", nothing, nothing, passes=passes, passes_left=2.0 * (10 - index))


@pytest.mark.parametrize(("steps", "known"), [(10, True), (6, False)])
def test_a_whole_generation_tells_what_its_profile_computed_and_one_taken_up_in_its_middle_does_not(
    run: RunDirectory, steps: int, known: bool
) -> None:
    cached = replace(SHORT, profile=StepProfile(step_cache=0.1))
    endpoint = admission(run, 1, 1)
    with endpoint.turn(endpoint.enter(options(cached)), STAYS) as turn:
        for index in range(steps):
            turn.report_step(done_step(index + 1, passes=2 * (index % 2)))
        turn.finish()
    shares = {"reused": 1.0, "passes": 1.0}  # five steps reused, of the four that surely may
    assert (run.read_json(SHARES_FILE) or {}) == ({cached.profile_name: shares} if known else {})


class StoppedClock(Clock):
    """Seconds that pass only when they are told to."""

    def __call__(self) -> float:
        return 1000.0 + self.ahead


def estimate_after(run: RunDirectory, steps: int) -> tuple[float | None, list[float | None]]:
    """Run some steps after a load. Returns the estimate for the next generation, and what was left after each step."""
    clock, left = StoppedClock(), []
    endpoint = Admission(run, endpoint=STREAM, limits=AdmissionLimits(1, 1), now=clock)
    with endpoint.turn(endpoint.enter(options()), STAYS) as turn:
        clock.ahead += LOAD_S
        for index in range(1, steps + 1):
            clock.ahead += STEP_S
            turn.report_step(done_step(index, passes=2))
            left.append(load_of(run, clock).left_s)
    return DurationEstimator(run, clock).estimate_s(SHORT), left


def test_the_load_before_one_that_was_cancelled_at_its_start_is_nobodys_pace(run: RunDirectory) -> None:
    assert estimate_after(run, 1)[0] is None


def test_one_that_was_cancelled_later_counts_without_what_it_loaded(run: RunDirectory) -> None:
    estimate, left = estimate_after(run, 4)
    assert estimate == pytest.approx(10 * STEP_S)
    assert left[1] == pytest.approx(8 * STEP_S)


def test_a_whole_generation_counts_with_what_it_loaded(run: RunDirectory) -> None:
    assert estimate_after(run, 10)[0] == pytest.approx(LOAD_S + 10 * STEP_S)


def test_what_was_expected_is_told_until_a_pace_is_known(run: RunDirectory) -> None:
    DurationEstimator(run, StoppedClock()).record(SHORT, step_s=STEP_S, after_s=0.0)
    _, left = estimate_after(run, 1)
    assert left[0] == 0.0  # the load took longer than the whole was expected to


def test_the_admissions_estimate_is_known_before_any_step(run: RunDirectory) -> None:
    clock = StoppedClock()
    endpoint = Admission(run, endpoint=STREAM, limits=AdmissionLimits(1, 1), now=clock)
    with endpoint.turn(endpoint.enter(options()), STAYS) as turn:
        assert turn.expected_left_s is None, "nothing was measured"
    DurationEstimator(run, clock).record(SHORT, step_s=STEP_S, after_s=0.0)
    with endpoint.turn(endpoint.enter(options()), STAYS) as turn:
        assert turn.expected_left_s == pytest.approx(10 * STEP_S)
        clock.ahead += STEP_S
        assert turn.expected_left_s == pytest.approx(9 * STEP_S)


def test_a_request_for_no_steps_is_refused_as_that_and_not_as_a_fault(run: RunDirectory) -> None:
    """The estimate of no steps must not fail in the place of the check."""
    none = replace(SHORT, num_inference_steps=0, profile=StepProfile(step_cache=0.1))
    endpoint = admission(run, 1, 1)
    with (
        pytest.raises(InvalidField, match="num_inference_steps"),
        endpoint.turn(endpoint.enter(options(none)), STAYS),
    ):
        raise InvalidField("num_inference_steps", 0, "at least 1")


def test_a_report_that_cannot_be_written_does_not_cost_the_video(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = admission(run, 1, 1)
    with endpoint.turn(endpoint.enter(options()), STAYS) as turn:
        monkeypatch.setattr(Slot, "report", _no_space)
        turn.report_step(done_step(1, passes=2))
        turn.finish()


def _no_space(slot: Slot, info: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
