"""Noise levels fall from noise to clean."""

import numpy as np
import pytest
from diffusers import UniPCMultistepScheduler

from wan_t2v.solvers.noise_levels import official_sigmas, shifted_sigmas, unipc_sigmas

DISTILLED = (1.0, 0.9375, 5 / 6, 0.625, 0.0)  # LightX2V's four steps at shift 5


def test_four_steps_of_shift_five_are_those_that_experts_were_distilled_at() -> None:
    assert shifted_sigmas(4, 5.0) == pytest.approx(DISTILLED)


@pytest.mark.parametrize("shift", [1e-30, 1.6e-16, 1e-3, 1.0, 100.0])
def test_levels_fall_from_one_to_zero_at_every_shift_that_is_accepted(shift: float) -> None:
    sigmas = shifted_sigmas(8, shift)
    assert sigmas[0] == 1.0 and sigmas[-1] == 0.0
    assert all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))


@pytest.mark.parametrize("shift", [1e-3, 1.0, 5.0, 12.0, 100.0])
@pytest.mark.parametrize("unshifted", [official_sigmas(40), official_sigmas(1), np.array([1.0, 0.5])])
def test_unipc_shifts_levels_as_diffusers_does(unshifted: np.ndarray, shift: float) -> None:  # type: ignore[type-arg]
    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    theirs.set_timesteps(sigmas=unshifted.copy())
    ours = unipc_sigmas(unshifted, shift)
    assert np.array_equal(ours.astype(np.float32), theirs.sigmas[:-1].numpy())
    assert ours[0] < 1.0
