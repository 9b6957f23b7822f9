import json

import torch

from wan_t2v.denoise import Step
from wan_t2v.progress import StepClock


def step(index: int, count: int = 4) -> Step:
    return Step(
        index,
        count,
        timestep=1000 - index,
        expert="high_noise_expert",
        clean_estimate=torch.zeros(1),
        latents=torch.zeros(1),
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
    }
