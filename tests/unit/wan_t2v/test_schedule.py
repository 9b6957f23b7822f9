from pathlib import Path

import pytest
import torch

from wan_t2v.facts import ModelFacts
from wan_t2v.schedule import Schedule

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
    return Schedule(facts.scheduler, num_inference_steps=steps, flow_shift=shift)


@pytest.mark.parametrize(("steps", "shift"), HIGH_NOISE_STEPS)
def test_high_noise_steps_are_those_of_the_official_sampler(facts: ModelFacts, steps: int, shift: int) -> None:
    timesteps = schedule(facts, steps, shift).timesteps
    assert len(timesteps) == steps
    assert sum(timestep >= facts.boundary_timestep for timestep in timesteps) == HIGH_NOISE_STEPS[steps, shift]


def test_forty_steps_of_shift_twelve_are_the_official_timesteps(facts: ModelFacts) -> None:
    timesteps = schedule(facts, 40, 12.0).timesteps
    assert timesteps[:3] + timesteps[24:28] + timesteps[-3:] == (999, 997, 995, 888, 877, 865, 852, 492, 386, 235)


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_every_accepted_number_of_steps_ends_clean(facts: ModelFacts, steps: int) -> None:
    """With a velocity that always points from the clean sample to the noise, the solver must arrive at the sample."""
    plan = schedule(facts, steps, 12.0)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 2, 1, 4, 4, generator=generator) for _ in range(2))
    sigma = plan._solver.sigmas[0]
    latents = (1 - sigma) * clean + sigma * noise
    for timestep in plan.timesteps:
        latents = plan.step(noise - clean, timestep, latents)
    assert torch.allclose(latents, clean, atol=1e-3)


def test_two_requests_do_not_share_solver_state(facts: ModelFacts) -> None:
    def walk(plan: Schedule, other: Schedule | None) -> torch.Tensor:
        latents = torch.ones(1, 1, 1, 2, 2)
        for timestep in plan.timesteps:
            latents = plan.step(latents * 0.3, timestep, latents)
            if other is not None:
                other.step(latents * 7, timestep, latents)
        return latents

    alone = walk(schedule(facts, 6, 12.0), None)
    assert torch.equal(walk(schedule(facts, 6, 12.0), schedule(facts, 6, 12.0)), alone)


@pytest.mark.parametrize("done", range(1, 8))
def test_a_restored_solver_goes_on_bit_for_bit(facts: ModelFacts, done: int) -> None:
    def velocity(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        return latents * 0.3 + timestep / 1000.0

    whole, interrupted = schedule(facts, 8, 12.0), schedule(facts, 8, 12.0)
    latents = torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = latents
    for timestep in whole.timesteps:
        expected = whole.step(velocity(expected, timestep), timestep, expected)
    for timestep in interrupted.timesteps[:done]:
        latents = interrupted.step(velocity(latents, timestep), timestep, latents)
    resumed = schedule(facts, 8, 12.0)
    resumed.restore({name: tensor.clone() for name, tensor in interrupted.state().items()})
    for timestep in resumed.timesteps[done:]:
        latents = resumed.step(velocity(latents, timestep), timestep, latents)
    assert torch.equal(latents, expected)
