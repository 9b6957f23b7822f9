"""UniPC: a multistep solver that predicts the next latents and corrects them by the velocity computed there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wan_t2v.solvers.noise_levels import unipc_sigmas
from wan_t2v.solvers.unipc_weights import UniPcOptions, UniPcWeights, UpdateWeights


class UniPcSchedule:
    """UniPC with the steps of diffusers' UniPCMultistepScheduler, bit-identical on a CPU.

    `sigmas` are unshifted noise levels, one per step. `config` is a `scheduler_config.json` that the export accepted.
    The solver keeps state of earlier steps, also across the switch from one expert to the other.
    """

    def __init__(self, config: Mapping[str, Any], sigmas: NDArray[np.float64], *, flow_shift: float) -> None:
        levels = unipc_sigmas(sigmas, flow_shift)
        self._options = UniPcOptions.of_config(config)
        self.timesteps: tuple[int, ...] = tuple(int(level) for level in levels * self._options.num_train_timesteps)
        self.sigmas = torch.from_numpy(np.append(levels, 0.0).astype(np.float32))
        self._sigmas: list[float] = self.sigmas.tolist()  # floats: tensors in products would be copied to the GPU
        self._weights = UniPcWeights.of_levels(self.sigmas, self._options)
        self._index = 0
        self._cleans: tuple[Tensor, ...] = ()  # estimates of the clean latents, the newest last
        self._last: Tensor | None = None  # latents at the start of the step before

    def step(self, velocity: Tensor, timestep: float, latents: Tensor) -> Tensor:
        """Advance latents (1, C, F, H, W) float32 by one solver step, from `timestep` to the next one."""
        index = self._index
        clean = latents - self._sigmas[index] * velocity
        if self._last is not None and index - 1 not in self._options.disable_corrector:
            latents = _update(self._weights.correct[index - 1], self._last, self._cleans, at_end=clean)
        self._cleans = (*self._cleans, clean)[-self._options.solver_order :]
        self._last = latents
        self._index += 1
        return _update(self._weights.predict[index], latents, self._cleans)

    def state(self) -> dict[str, Tensor]:
        """Return the solver's state after the steps so far, as tensors for `restore`."""
        cleans = {f"clean_{i}": clean for i, clean in enumerate(self._cleans)}
        last = {} if self._last is None else {"last": self._last}
        return {"index": torch.tensor(self._index), **cleans, **last}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state` of a schedule with the same steps and shift."""
        self._index = int(state["index"])
        self._cleans = tuple(state[f"clean_{i}"] for i in range(self._options.solver_order) if f"clean_{i}" in state)
        self._last = state.get("last")

    @property
    def clean_estimate(self) -> Tensor:
        """Estimate of the clean latents by the last velocity: `latents - sigma * velocity`."""
        return self._cleans[-1]


def _update(
    weights: UpdateWeights, latents: Tensor, cleans: Sequence[Tensor], *, at_end: Tensor | None = None
) -> Tensor:
    """Return the latents at the next level. A corrector also uses `at_end`, the estimate at the end of the step."""
    newest = cleans[-1]
    slopes = [(cleans[-2 - k] - newest) / ratio for k, ratio in enumerate(weights.ratios)]
    change = _weighted(slopes, weights.terms)
    if at_end is not None:
        ending = weights.terms[-1] * (at_end - newest)
        change = ending if change is None else change + ending
    updated = weights.sample * latents - weights.change * newest
    return updated if change is None else updated - weights.change * change


def _weighted(slopes: Sequence[Tensor], terms: Sequence[float]) -> Tensor | None:
    """Return the sum of terms times slopes, with the operations of diffusers: others could round differently."""
    if not slopes:
        return None
    if len(slopes) == 1:
        return terms[0] * slopes[0]
    weights = torch.tensor(terms[: len(slopes)], device=slopes[0].device)
    summed: Tensor = torch.einsum("k,bkc...->bc...", weights, torch.stack(list(slopes), dim=1))
    return summed
