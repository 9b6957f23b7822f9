"""Euler is diffusers' own, to the bit, and goes on where it was left."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from wan_t2v.solvers.euler import EulerSchedule
from wan_t2v.solvers.noise_levels import shifted_sigmas

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


def test_timesteps_may_be_fractions() -> None:
    timesteps = EulerSchedule(shifted_sigmas(4, 5.0), num_train_timesteps=1000).timesteps
    assert timesteps == pytest.approx((1000.0, 937.5, 833.3333, 625.0))
    assert [timestep >= 875 for timestep in timesteps] == [True, True, False, False]


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
