"""UniPC is diffusers' own, to the bit, and goes on where it was left."""

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from wan_t2v.solvers.noise_levels import official_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def config(**changes: Any) -> dict[str, Any]:
    """A `scheduler_config.json` as diffusers writes it."""
    return dict(UniPCMultistepScheduler(**{**FLOW, **changes}).config)


def schedule(steps: int, shift: float = 12.0, **changes: Any) -> UniPcSchedule:
    return UniPcSchedule(config(**changes), official_sigmas(steps), flow_shift=shift)


def diffusers_solver(steps: int, shift: float, **changes: Any) -> UniPCMultistepScheduler:
    theirs = UniPCMultistepScheduler.from_config(config(**changes), flow_shift=shift)
    theirs.set_timesteps(sigmas=official_sigmas(steps))
    theirs.set_begin_index(0)
    return theirs


def noise() -> torch.Tensor:
    return torch.randn(1, 16, 2, 5, 7, generator=torch.Generator().manual_seed(0))


def bent(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.sin(3 * latents) * 0.4 - timestep / 3000.0


@pytest.mark.parametrize("corrected", [[], [0, 3]])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("steps", "shift"), [(1, 5.0), (2, 12.0), (3, 3.0), (4, 1.0), (7, 0.3), (40, 12.0), (40, 5.0), (100, 3.0)]
)
def test_each_step_has_the_bits_of_diffusers_own(steps: int, shift: float, order: int, corrected: list[int]) -> None:
    changes = {"solver_order": order, "disable_corrector": corrected}
    ours, theirs = schedule(steps, shift, **changes), diffusers_solver(steps, shift, **changes)
    assert list(ours.timesteps) == theirs.timesteps.tolist()
    mine = other = noise()
    for timestep in ours.timesteps:
        velocity = bent(mine, timestep)
        mine = ours.step(velocity, timestep, mine)
        other = theirs.step(velocity, timestep, other, return_dict=False)[0]
        assert torch.equal(mine, other)
        assert torch.equal(ours.clean_estimate, theirs.model_outputs[-1])


def test_options_that_a_config_leaves_out_are_diffusers_defaults() -> None:
    short = UniPcSchedule(FLOW, official_sigmas(6), flow_shift=5.0)
    whole, latents = schedule(6, 5.0), noise()
    assert short.timesteps == whole.timesteps
    for timestep in whole.timesteps:
        velocity = bent(latents, timestep)
        latents, other = whole.step(velocity, timestep, latents), short.step(velocity, timestep, latents)
        assert torch.equal(latents, other)


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_every_accepted_number_of_steps_ends_clean(steps: int) -> None:
    """With a velocity that always points from the clean sample to the noise, the solver must arrive at the sample."""
    plan = schedule(steps)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 2, 1, 4, 4, generator=generator) for _ in range(2))
    sigma = plan.sigmas[0]
    latents = (1 - sigma) * clean + sigma * noise
    for timestep in plan.timesteps:
        latents = plan.step(noise - clean, timestep, latents)
    assert torch.allclose(latents, clean, atol=1e-3)


def test_two_requests_do_not_share_solver_state() -> None:
    def walk(plan: UniPcSchedule, other: UniPcSchedule | None) -> torch.Tensor:
        latents = torch.ones(1, 1, 1, 2, 2)
        for timestep in plan.timesteps:
            latents = plan.step(latents * 0.3, timestep, latents)
            if other is not None:
                other.step(latents * 7, timestep, latents)
        return latents

    assert torch.equal(walk(schedule(6), schedule(6)), walk(schedule(6), None))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("done", range(1, 8))
def test_a_restored_solver_goes_on_bit_for_bit(done: int, order: int) -> None:
    whole, interrupted, resumed = (schedule(8, solver_order=order) for _ in range(3))
    expected = latents = noise()
    for timestep in whole.timesteps:
        expected = whole.step(bent(expected, timestep), timestep, expected)
    for timestep in interrupted.timesteps[:done]:
        latents = interrupted.step(bent(latents, timestep), timestep, latents)
    resumed.restore({name: tensor.clone() for name, tensor in interrupted.state().items()})
    for timestep in resumed.timesteps[done:]:
        latents = resumed.step(bent(latents, timestep), timestep, latents)
    assert torch.equal(latents, expected)
