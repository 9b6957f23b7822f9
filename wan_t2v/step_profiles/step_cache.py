"""Cache of the last computed step's result, and the decision whether a later step reuses it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from wan_t2v.guidance import Velocities
from wan_t2v.step_profiles.profile import StepProfile

_SMALLEST = 1e-8


class StepCache:
    """EasyCache (arXiv 2507.02860) of one expert in one generation, or a static schedule in its place.

    A reusing step gets `latents + (cached velocity - cached latents)`: the cache is of the expert's output minus its
    input. Decisions use float64 sums on the CPU in numpy's order. So the same request makes the same decisions on every
    machine and beside any other request.
    """

    def __init__(self, profile: StepProfile) -> None:
        self._profile = profile
        self.reset()

    def reset(self) -> None:
        """Empty the cache, since another expert is another network."""
        self._previous: Tensor | None = None  # latents of the step before, computed or not
        self._latents: Tensor | None = None  # latents of the last computed step; its result follows
        self._velocities: Velocities | None = None
        self._rate: float | None = None  # change of the velocity per change of the latents, between computed steps
        self._change = 0.0  # estimated share by which the velocity has changed since
        self._reused = 0  # reusing steps in a row

    def take(self, latents: Tensor, *, may_reuse: bool) -> Velocities | None:
        """Return the cached result at these latents; None if the step must be computed. Call it at every step."""
        reuses = may_reuse and self._is_near(latents)
        self._previous = latents
        if not reuses or self._velocities is None or self._latents is None:
            self._change = 0.0
            return None
        self._reused += 1
        conditional, negative = self._velocities.conditional, self._velocities.negative
        moved = latents - self._latents
        return Velocities(moved + conditional, None if negative is None else moved + negative)

    def keep(self, latents: Tensor, velocities: Velocities) -> None:
        """Cache a computed step's result."""
        if self._velocities is not None and self._latents is not None and self._profile.step_cache:
            change = _mean_distance(velocities.conditional, self._velocities.conditional)
            self._rate = change / max(_mean_distance(latents, self._latents), _SMALLEST)
        self._latents, self._velocities, self._reused = latents, velocities, 0

    def state(self) -> dict[str, Tensor]:
        """Return the cache's content as tensors, for `restore`."""
        rate = float("nan") if self._rate is None else self._rate
        numbers = torch.tensor([rate, self._change, float(self._reused)], dtype=torch.float64)
        found = {"previous": self._previous, "latents": self._latents}
        if self._velocities is not None:
            found |= {"conditional": self._velocities.conditional, "negative": self._velocities.negative}
        return {"numbers": numbers, **{name: tensor for name, tensor in found.items() if tensor is not None}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state`."""
        rate, self._change, reused = (float(number) for number in state["numbers"])
        self._rate, self._reused = None if np.isnan(rate) else rate, int(reused)
        self._previous, self._latents = state.get("previous"), state.get("latents")
        if "conditional" in state:
            self._velocities = Velocities(state["conditional"], state.get("negative"))

    def _is_near(self, latents: Tensor) -> bool:
        if self._velocities is None or self._latents is None:
            return False
        if self._profile.static_reuse:
            return self._reused < self._profile.static_reuse
        if self._rate is None or self._previous is None or self._reused >= self._profile.longest_reuse:
            return False
        moved = _mean_distance(latents, self._previous)
        self._change += self._rate * moved / max(_mean_size(self._velocities.conditional), _SMALLEST)
        return self._change < self._profile.step_cache


def _mean_distance(one: Tensor, other: Tensor) -> float:
    return float(np.abs(_float64(one) - _float64(other)).mean())


def _mean_size(tensor: Tensor) -> float:
    return float(np.abs(_float64(tensor)).mean())


def _float64(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float64)
