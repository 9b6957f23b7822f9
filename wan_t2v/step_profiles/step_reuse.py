"""Reuse of results in one generation: which passes were computed, and what the other steps reuse."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wan_t2v.guidance import Velocities
from wan_t2v.step_profiles.profile import EXPECTED_REUSE, StepProfile
from wan_t2v.step_profiles.step_cache import StepCache
from wan_t2v.step_profiles.step_plan import PlannedStep, plan_steps

_CACHE, _PASSES = "cache.", "passes"


class StepReuse:
    """Reuse state of one request. `experts` names the expert of each step, in order."""

    def __init__(self, profile: StepProfile, experts: Sequence[str], *, guided: bool) -> None:
        self.plan = plan_steps(profile, experts, guided=guided)
        self._cache = StepCache(profile) if profile.reuses_steps else None
        self._full = 2 if guided else 1
        self.passes: list[int] = []

    def take(self, step: PlannedStep, latents: Tensor) -> Velocities | None:
        """Return the velocities that a step reuses; None if it must be computed and then passed to `keep`."""
        if self._cache is None:
            return None
        if step.is_experts_first:
            self._cache.reset()
        taken = self._cache.take(latents, may_reuse=step.may_reuse)
        if taken is None:
            return None
        self.passes.append(0)
        return taken if step.guided else Velocities(taken.conditional, None)

    def keep(self, step: PlannedStep, latents: Tensor, velocities: Velocities) -> None:
        """Record a computed step and its velocities."""
        self.passes.append(step.passes)
        if self._cache is not None:
            self._cache.keep(latents, velocities)

    @property
    def passes_left(self) -> float:
        """Estimated number of passes still to compute; reusable steps count by the share that reused so far."""
        done = len(self.passes)
        seen = [passes for step, passes in zip(self.plan, self.passes, strict=False) if step.may_reuse]
        reuse = (seen.count(0) + EXPECTED_REUSE) / (len(seen) + 1)
        return sum(step.passes * (1.0 - reuse if step.may_reuse else 1.0) for step in self.plan[done:])

    @property
    def passes_saved(self) -> int:
        """Number of passes that the steps so far skipped."""
        return self._full * len(self.passes) - sum(self.passes)

    def state(self) -> dict[str, Tensor]:
        """Return the state that the next step depends on, as tensors for `restore`."""
        cache = {} if self._cache is None else self._cache.state()
        return {_PASSES: torch.tensor(self.passes), **{f"{_CACHE}{name}": tensor for name, tensor in cache.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state` of a generation with the same profile and steps."""
        self.passes = [int(passes) for passes in state[_PASSES]]
        if self._cache is not None:
            cache = {name.removeprefix(_CACHE): kept for name, kept in state.items() if name.startswith(_CACHE)}
            self._cache.restore(cache)
