"""The reuse of a whole generation: per expert, counted, and taken up again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wan_t2v.contract import EXPERTS
from wan_t2v.guidance import Velocities
from wan_t2v.step_profiles.profile import EXACT, StepProfile
from wan_t2v.step_profiles.step_reuse import StepReuse

HIGH, LOW = EXPERTS
EXPERTS_OF_STEPS = (HIGH,) * 14 + (LOW,) * 10
EAGER = StepProfile(step_cache=1.0, guidance_skip=0.5, longest_reuse=4)


def velocities(expert: str, latents: Tensor, *, guided: bool) -> Velocities:
    """Those of two experts that have nothing in common."""
    conditional = 0.5 * latents if expert == HIGH else latents * latents - 3.0
    return Velocities(conditional, 0.9 * conditional if guided else None)


def walk(
    reuse: StepReuse, latents: Tensor, *, begin: int = 0, until: int = len(EXPERTS_OF_STEPS)
) -> tuple[Tensor, list[Velocities]]:
    found = []
    for step in reuse.plan[begin:until]:
        taken = reuse.take(step, latents)
        if taken is None:
            taken = velocities(step.expert, latents, guided=step.guided)
            reuse.keep(step, latents, taken)
        found.append(taken)
        latents = latents - 0.02 * taken.guided(2.0)
    return latents, found


def start() -> Tensor:
    return torch.randn(1, 2, 1, 3, 3, generator=torch.Generator().manual_seed(1)) + 2.0


def test_every_pass_of_exact_is_computed() -> None:
    reuse = StepReuse(EXACT, EXPERTS_OF_STEPS, guided=True)
    assert reuse.passes_left == 48
    walk(reuse, start())
    assert (reuse.passes, reuse.passes_saved, reuse.passes_left) == ([2] * 24, 0, 0)


def test_passes_are_counted_and_those_at_the_end_are_single() -> None:
    reuse = StepReuse(EAGER, EXPERTS_OF_STEPS, guided=True)
    walk(reuse, start())
    assert reuse.passes[:5] == [2] * 5 and reuse.passes[14:16] == [2, 2] and reuse.passes[-2:] == [1, 1]
    assert 0 in reuse.passes[5:14] and 0 in reuse.passes[16:22]
    assert reuse.passes_saved == 48 - sum(reuse.passes)


def test_no_step_takes_what_the_other_expert_computed() -> None:
    """Also where the plan would let it: the first two steps of an expert have nothing of its own to take."""
    reuse = StepReuse(EAGER, EXPERTS_OF_STEPS, guided=True)
    reuse.plan = tuple(replace(step, may_reuse=True) for step in reuse.plan)
    walk(reuse, start())
    assert [index for index in range(24) if reuse.passes[index]][:2] == [0, 1]
    assert [index for index in range(14, 24) if reuse.passes[index]][:2] == [14, 15]
    assert 0 in reuse.passes[:14] and 0 in reuse.passes[14:]


@pytest.mark.parametrize("done", range(1, 24))
def test_a_restored_reuse_goes_on_bit_for_bit(done: int) -> None:
    whole = StepReuse(EAGER, EXPERTS_OF_STEPS, guided=True)
    expected, _ = walk(whole, start())
    interrupted, resumed = (StepReuse(EAGER, EXPERTS_OF_STEPS, guided=True) for _ in range(2))
    latents, _ = walk(interrupted, start(), until=done)
    resumed.restore({name: tensor.clone() for name, tensor in interrupted.state().items()})
    latents, _ = walk(resumed, latents, begin=done)
    assert torch.equal(latents, expected) and resumed.passes == whole.passes


def test_the_passes_that_are_left_follow_what_was_reused_so_far() -> None:
    never = StepReuse(StepProfile(step_cache=1e-9), EXPERTS_OF_STEPS, guided=True)
    often = StepReuse(StepProfile(step_cache=1.0), EXPERTS_OF_STEPS, guided=True)
    assert never.passes_left == often.passes_left < 48
    for reuse in (never, often):
        walk(reuse, start(), until=14)
    assert often.passes_left < never.passes_left <= 20


def test_without_a_negative_pass_nothing_of_guidance_is_skipped() -> None:
    reuse = StepReuse(EAGER, EXPERTS_OF_STEPS, guided=False)
    walk(reuse, start())
    assert set(reuse.passes) == {0, 1} and reuse.passes_saved == reuse.passes.count(0)
