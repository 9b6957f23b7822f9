"""The passes of one generation: which were computed, and what the others took instead."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wan_t2v.guidance import Velocities
from wan_t2v.step_profiles.profile import EXPECTED_REUSE, StepProfile
from wan_t2v.step_profiles.step_cache import StepCache
from wan_t2v.step_profiles.step_plan import PlannedStep, plan_steps

_CACHE, _PASSES = "cache.", "passes"


class StepReuse:
    """One instance per request. `experts` names who runs each step, in order."""

    def __init__(self, profile: StepProfile, experts: Sequence[str], *, guided: bool) -> None:
        self.plan = plan_steps(profile, experts, guided=guided)
        self._cache = StepCache(profile) if profile.reuses_steps else None
        self._full = 2 if guided else 1
        self.passes: list[int] = []

    def take(self, step: PlannedStep, latents: Tensor) -> Velocities | None:
        """What a step takes of an earlier one; None if it is to be computed, which `keep` is told of."""
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
        """A step was computed."""
        self.passes.append(step.passes)
        if self._cache is not None:
            self._cache.keep(latents, velocities)

    @property
    def passes_left(self) -> float:
        """Passes that are still to be computed; those that may be left out by how many were so far."""
        done = len(self.passes)
        seen = [passes for step, passes in zip(self.plan, self.passes, strict=False) if step.may_reuse]
        reuse = (seen.count(0) + EXPECTED_REUSE) / (len(seen) + 1)
        return sum(step.passes * (1.0 - reuse if step.may_reuse else 1.0) for step in self.plan[done:])

    @property
    def passes_saved(self) -> int:
        """Passes that the steps so far did not need."""
        return self._full * len(self.passes) - sum(self.passes)

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, as tensors to keep; `restore` takes it up."""
        cache = {} if self._cache is None else self._cache.state()
        return {_PASSES: torch.tensor(self.passes), **{f"{_CACHE}{name}": tensor for name, tensor in cache.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, in a generation of the same profile and steps."""
        self.passes = [int(passes) for passes in state[_PASSES]]
        if self._cache is not None:
            cache = {name.removeprefix(_CACHE): kept for name, kept in state.items() if name.startswith(_CACHE)}
            self._cache.restore(cache)
