import json

import pytest
import torch

from wan_t2v.denoise import Step
from wan_t2v.progress import StepClock


def step(index: int, *, passes: int = 2, passes_left: float | None = None, count: int = 4) -> Step:
    passes_left = 2.0 * (count - index) if passes_left is None else passes_left
    return Step(
        index,
        count,
        timestep=1000 - index,
        expert="high_noise_expert",
        clean_estimate=torch.zeros(1),
        latents=torch.zeros(1),
        passes=passes,
        passes_left=passes_left,
    )


def test_the_time_left_is_the_mean_of_the_steps_so_far_times_those_left() -> None:
    times = iter((100.0, 102.0, 106.0))
    clock = StepClock(lambda: next(times))
    first, second = clock.after(step(1)), clock.after(step(2))
    assert (first.step_s, first.left_s) == (2.0, 6.0)
    assert (second.step_s, second.left_s) == (4.0, 6.0)
    assert json.loads(second.to_json()) == {
        "step": 2,
        "num_inference_steps": 4,
        "timestep": 998,
        "expert": "high_noise_expert",
        "step_s": 4.0,
        "left_s": 6.0,
        "reused": False,
    }


def test_a_reused_step_costs_next_to_nothing_and_the_time_left_counts_passes() -> None:
    times = iter((100.0, 102.0, 102.0, 104.0))
    clock = StepClock(lambda: next(times))
    clock.after(step(1))
    reused = clock.after(step(2, passes=0, passes_left=3.0))
    assert (reused.reused, reused.step_s, reused.left_s) == (True, 0.0, 3.0)  # a second per pass
    assert clock.after(step(3, passes=2, passes_left=1.0)).left_s == 1.0


def test_of_a_generation_that_goes_on_with_a_reused_step_the_admission_tells_the_time_left() -> None:
    """A reused step of 20 ms told 0.58 s, and the next one, of 20 s, told 480."""
    times = iter((100.0, 100.02, 120.02))
    clock = StepClock(lambda: next(times))
    reused = clock.after(step(11, passes=0, passes_left=50.0, count=40), expected_left_s=470.0)
    assert (reused.step_s, reused.left_s) == (0.02, 470.0)
    assert clock.after(step(12, passes=2, passes_left=48.0, count=40), expected_left_s=7.0).left_s == 480.48


@pytest.mark.parametrize("expected_left_s", [None, 0.0, 1.0])
def test_where_the_admission_knows_nothing_or_too_little_the_reused_steps_tell_it(
    expected_left_s: float | None,
) -> None:
    times = iter((100.0, 101.0))
    progress = StepClock(lambda: next(times)).after(step(2, passes=0, passes_left=3.0), expected_left_s=expected_left_s)
    assert progress.left_s == 2.0


def test_after_the_last_step_nothing_is_left_even_if_it_was_reused() -> None:
    times = iter((100.0, 101.0))
    assert StepClock(lambda: next(times)).after(step(4, passes=0), expected_left_s=9.0).left_s == 0.0
