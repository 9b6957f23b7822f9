"""A request's schedule has the official sampler's timesteps, and the solver that the request chose."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.wan_t2v.serving.models.decoders import SETTINGS
from wan_t2v.facts import ModelFacts
from wan_t2v.schedule import Schedule, make_schedule

# Steps of the high-noise expert with Wan's own sampler, by number of steps and shift: known from the official code.
HIGH_NOISE_STEPS = {
    (4, 3): 2, (4, 5): 2, (4, 8): 3, (4, 12): 3,
    (8, 3): 3, (8, 5): 4, (8, 8): 5, (8, 12): 6,
    (20, 3): 6, (20, 5): 9, (20, 8): 11, (20, 12): 13,
    (30, 3): 9, (30, 5): 13, (30, 8): 16, (30, 12): 19,
    (40, 3): 12, (40, 5): 17, (40, 8): 22, (40, 12): 26,
    (50, 3): 15, (50, 5): 21, (50, 8): 27, (50, 12): 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def facts(repository: Path) -> ModelFacts:
    return ModelFacts.read(repository / "denoiser/1")


def schedule(facts: ModelFacts, steps: int, shift: float) -> Schedule:
    return make_schedule(replace(SETTINGS, num_inference_steps=steps, flow_shift=shift), facts)


@pytest.mark.parametrize(("steps", "shift"), HIGH_NOISE_STEPS)
def test_high_noise_steps_are_those_of_the_official_sampler(facts: ModelFacts, steps: int, shift: int) -> None:
    timesteps = schedule(facts, steps, shift).timesteps
    assert len(timesteps) == steps
    assert sum(timestep >= facts.boundary_timestep for timestep in timesteps) == HIGH_NOISE_STEPS[steps, shift]


def test_forty_steps_of_shift_twelve_are_the_official_timesteps(facts: ModelFacts) -> None:
    timesteps = tuple(schedule(facts, 40, 12.0).timesteps)
    assert timesteps[:3] + timesteps[24:28] + timesteps[-3:] == (999, 997, 995, 888, 877, 865, 852, 492, 386, 235)


def test_a_request_chooses_the_solver_and_the_deployment_its_levels(facts: ModelFacts) -> None:
    euler = replace(SETTINGS, num_inference_steps=4, flow_shift=5.0, solver="euler")
    assert make_schedule(euler, facts).timesteps == pytest.approx((1000.0, 937.5, 833.3333, 625.0))
    given = make_schedule(replace(euler, sigmas=(1.0, 0.9, 0.5, 0.25, 0.0)), facts)
    assert given.timesteps == pytest.approx((1000.0, 900.0, 500.0, 250.0))
