"""The cache held to its formula, written down a second time as it was published."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wan_t2v.guidance import Velocities
from wan_t2v.step_profiles.profile import StepProfile
from wan_t2v.step_profiles.step_cache import StepCache

STEPS, WARM_UP, LAST = 24, 5, 2


def smooth_velocity(latents: Tensor, step: int) -> Velocities:
    bend = torch.sin(0.4 * latents + step / 40)
    return Velocities(0.9 * latents + 0.3 * bend, 0.8 * latents - 0.2 * bend)


def start() -> Tensor:
    return torch.randn(1, 4, 2, 6, 6, generator=torch.Generator().manual_seed(7))


def mean_size(tensor: Tensor) -> float:
    return float(np.abs(tensor.numpy().astype(np.float64)).mean())


def published(threshold: float, longest: int) -> tuple[list[int], list[Tensor]]:
    """EasyCache, arXiv 2507.02860, algorithm 1, for both passes: the steps that reuse, and every step's velocity."""
    latents, reused, velocities = start(), [], []
    previous: Any = None
    full: Any = None
    k: Any = None
    error, run = 0.0, 0
    for step in range(STEPS):
        reuse = False
        if WARM_UP <= step < STEPS - LAST and k is not None and run < longest:
            error += k * mean_size(latents.double() - previous.double()) / mean_size(full[1])
            reuse = error < threshold
        previous = latents
        if reuse:
            run += 1
            reused.append(step)
            conditional, negative = ((latents - full[0]) + one for one in full[1:])
        else:
            error, run = 0.0, 0
            both = smooth_velocity(latents, step)
            conditional, negative = both.conditional, both.negative
            if full is not None:
                k = mean_size(conditional.double() - full[1].double()) / mean_size(latents.double() - full[0].double())
            full = (latents, conditional, negative)
        velocities.append(negative + 3.0 * (conditional - negative))
        latents = latents - 0.01 * velocities[-1]
    return reused, velocities


def cached(
    profile: StepProfile,
    *,
    until: int = STEPS,
    state: dict[str, Tensor] | None = None,
    latents: Tensor | None = None,
    begin: int = 0,
) -> tuple[list[int], list[Tensor], Tensor, dict[str, Tensor]]:
    cache = StepCache(profile)
    if state is not None:
        cache.restore({name: tensor.clone() for name, tensor in state.items()})
    latents = start() if latents is None else latents
    reused, velocities = [], []
    for step in range(begin, until):
        taken = cache.take(latents, may_reuse=WARM_UP <= step < STEPS - LAST)
        if taken is None:
            taken = smooth_velocity(latents, step)
            cache.keep(latents, taken)
        else:
            reused.append(step)
        velocities.append(taken.guided(3.0))
        latents = latents - 0.01 * velocities[-1]
    return reused, velocities, latents, cache.state()


@pytest.mark.parametrize("longest", [1, 2, 20])
@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.1, 0.3, 1.0])
def test_decisions_and_velocities_are_those_of_the_published_algorithm(threshold: float, longest: int) -> None:
    expected, velocities = published(threshold, longest)
    reused, found, _, _ = cached(StepProfile(step_cache=threshold, longest_reuse=longest))
    assert reused == expected
    assert all(torch.equal(one, other) for one, other in zip(found, velocities, strict=True))


def test_a_higher_threshold_reuses_more_and_none_of_it_is_vacuous() -> None:
    counts = [len(cached(StepProfile(step_cache=threshold, longest_reuse=20))[0]) for threshold in (0.01, 0.05, 0.3)]
    assert counts == sorted(counts) and 0 < counts[1] < counts[2] <= STEPS - WARM_UP - LAST


def test_a_static_schedule_reuses_so_many_after_each_computed_step() -> None:
    reused, *_ = cached(StepProfile(static_reuse=2))
    assert reused == [5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21]


def test_a_static_schedule_is_not_cut_short() -> None:
    reused, *_ = cached(StepProfile(static_reuse=4, longest_reuse=2))
    assert reused == [5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21]


@pytest.mark.parametrize("done", range(1, STEPS))
def test_a_restored_cache_goes_on_bit_for_bit(done: int) -> None:
    profile = StepProfile(step_cache=0.1, longest_reuse=3)
    reused, _, expected, _ = cached(profile)
    before, _, latents, state = cached(profile, until=done)
    after, _, found, _ = cached(profile, state=state, latents=latents, begin=done)
    assert before + after == reused and torch.equal(found, expected)


def test_after_a_reset_nothing_is_reused_until_two_steps_were_computed() -> None:
    cache = StepCache(StepProfile(step_cache=1.0, longest_reuse=100))
    for step in range(6):
        latents = start() * (1 - step / 100)
        if step == 3:
            cache.reset()
        taken = cache.take(latents, may_reuse=True)
        assert (taken is None) == (step in (0, 1, 3, 4))
        if taken is None:
            cache.keep(latents, smooth_velocity(latents, step))
