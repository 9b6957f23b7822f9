from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.unit.wan_t2v.serving.models.test_vae_decoder import SETTINGS
from wan_t2v.facts import ModelFacts
from wan_t2v.schedule import EulerSchedule, UniPcSchedule, make_schedule, shifted_sigmas

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


def schedule(facts: ModelFacts, steps: int, shift: float) -> UniPcSchedule:
    return UniPcSchedule(facts.scheduler, num_inference_steps=steps, flow_shift=shift)


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
    def walk(plan: UniPcSchedule, other: UniPcSchedule | None) -> torch.Tensor:
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


DISTILLED = (1.0, 0.9375, 5 / 6, 0.625, 0.0)  # LightX2V's four steps at shift 5


def bent(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.sin(latents) * 0.4 - timestep / 3000.0


def noise() -> torch.Tensor:
    return torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_euler_walks_as_diffusers_own_scheduler_does() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=1.0)  # the levels are shifted already
    theirs.set_timesteps(sigmas=list(DISTILLED[:-1]))
    ours = EulerSchedule(DISTILLED, num_train_timesteps=1000)
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
    mine = other = noise()
    for timestep in ours.timesteps:
        mine = ours.step(bent(mine, timestep), timestep, mine)
        other = theirs.step(bent(other, timestep), torch.tensor(timestep), other, return_dict=False)[0]
        assert torch.equal(mine, other)


def test_four_steps_of_shift_five_are_those_that_experts_were_distilled_at() -> None:
    assert shifted_sigmas(4, 5.0) == pytest.approx(DISTILLED)
    timesteps = EulerSchedule(shifted_sigmas(4, 5.0), num_train_timesteps=1000).timesteps
    assert timesteps == pytest.approx((1000.0, 937.5, 833.3333, 625.0))
    assert [timestep >= 875 for timestep in timesteps] == [True, True, False, False]


@pytest.mark.parametrize("shift", [1e-30, 1.6e-16, 1e-3, 1.0, 100.0])
def test_levels_fall_from_one_to_zero_at_every_shift_that_is_accepted(shift: float) -> None:
    sigmas = shifted_sigmas(8, shift)
    assert sigmas[0] == 1.0 and sigmas[-1] == 0.0
    assert all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))


@pytest.mark.parametrize("done", range(4))
def test_a_restored_euler_goes_on_bit_for_bit(done: int) -> None:
    whole, interrupted, resumed = (EulerSchedule(DISTILLED, num_train_timesteps=1000) for _ in range(3))
    expected = latents = noise()
    for timestep in whole.timesteps:
        expected = whole.step(bent(expected, timestep), timestep, expected)
    for timestep in interrupted.timesteps[:done]:
        latents = interrupted.step(bent(latents, timestep), timestep, latents)
    resumed.restore(interrupted.state())
    for timestep in resumed.timesteps[done:]:
        latents = resumed.step(bent(latents, timestep), timestep, latents)
    assert torch.equal(latents, expected)


def test_eulers_clean_estimate_is_where_it_ends_if_the_velocity_stays() -> None:
    schedule, latents = EulerSchedule(DISTILLED, num_train_timesteps=1000), noise()
    velocity = bent(latents, 0.0)
    for timestep in schedule.timesteps:
        latents = schedule.step(velocity, timestep, latents)
        assert torch.allclose(schedule.clean_estimate, noise() - velocity, atol=1e-6)
    assert torch.allclose(latents, noise() - velocity, atol=1e-6)


def test_a_request_chooses_the_solver_and_the_deployment_its_levels(facts: ModelFacts) -> None:
    unipc = make_schedule(replace(SETTINGS, num_inference_steps=4, flow_shift=12.0), facts)
    assert list(unipc.timesteps) == list(schedule(facts, 4, 12.0).timesteps)
    euler = replace(SETTINGS, num_inference_steps=4, flow_shift=5.0, solver="euler")
    assert make_schedule(euler, facts).timesteps == pytest.approx((1000.0, 937.5, 833.3333, 625.0))
    given = make_schedule(replace(euler, sigmas=(1.0, 0.9, 0.5, 0.25, 0.0)), facts)
    assert given.timesteps == pytest.approx((1000.0, 900.0, 500.0, 250.0))
