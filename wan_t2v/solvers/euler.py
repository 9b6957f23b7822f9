"""The Euler solver, for experts that were distilled to a few steps."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class EulerSchedule:
    """Euler solver over given noise levels, for experts that were distilled to a few steps.

    `sigmas` fall from 1 to 0, one more than there are steps. Timesteps may be fractions: experts were distilled
    at 937.5. The formula is that of diffusers' FlowMatchEulerDiscreteScheduler: `latents + (next - sigma) * velocity`.
    """

    def __init__(self, sigmas: Sequence[float], *, num_train_timesteps: int) -> None:
        self._sigmas = torch.tensor(sigmas, dtype=torch.float32)
        self.timesteps: tuple[float, ...] = tuple(float(sigma) for sigma in self._sigmas[:-1] * num_train_timesteps)
        self._index = 0
        self._clean: Tensor | None = None

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """Advance latents (1, C, F, H, W) float32 by one step, from `timestep` to the next one."""
        sigma, following = self._sigmas[self._index], self._sigmas[self._index + 1]
        self._index += 1
        self._clean = latents - sigma * velocity
        return latents + (following - sigma) * velocity

    def state(self) -> dict[str, Tensor]:
        """Return the number of steps done, as a tensor for `restore`."""
        return {"index": torch.tensor(self._index)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state`."""
        self._index = int(state["index"])

    @property
    def clean_estimate(self) -> Tensor:
        """Estimate of the clean latents by the last velocity: `latents - sigma * velocity`."""
        assert self._clean is not None, "asked after a step"
        return self._clean
