"""Noise levels (sigmas) of a generation, from noise at 1 to clean at 0."""

import numpy as np
from numpy.typing import NDArray


def official_sigmas(num_inference_steps: int) -> NDArray[np.float64]:
    """Unshifted noise levels of Wan's own sampler (FlowUniPCMultistepScheduler in Wan-Video/Wan2.2).

    diffusers 0.37 changed its own formula, so `set_timesteps(n)` no longer gives Wan's timesteps: with shift 12 and 40
    steps it ends 496, 391, 242 where Wan ends 492, 386, 235.
    """
    rising = 1.0 - np.linspace(1.0, 1.0 / 1000.0, num_inference_steps + 1)
    return np.flip(rising)[:-1].copy()


def shifted_sigmas(num_inference_steps: int, flow_shift: float) -> tuple[float, ...]:
    """Noise levels of a few-step generation, from 1 to 0: evenly spaced, then shifted.

    For four steps and shift 5 those of LightX2V's four-step experts (1, 0.9375, 0.8333, 0.625, 0).
    """
    even = [1.0 - index / num_inference_steps for index in range(num_inference_steps)]
    # The denominator is not `1 + (flow_shift - 1) * sigma`, which is rounded to 0 for a tiny shift.
    return (*(flow_shift * sigma / ((1.0 - sigma) + flow_shift * sigma) for sigma in even), 0.0)


def unipc_sigmas(unshifted: NDArray[np.float64], flow_shift: float) -> NDArray[np.float64]:
    """Shift the noise levels that UniPC steps between; the last one, 0, is not among them.

    The shift is that of `UniPCMultistepScheduler.set_timesteps` in diffusers 0.42. The first level stays below 1, so
    that the logarithm of the signal's share is finite.
    """
    sigmas = flow_shift * unshifted / (1 + (flow_shift - 1) * unshifted)
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    return sigmas
