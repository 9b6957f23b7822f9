"""Scheduler check: `scheduler_config.json` must describe the solver that the denoising loop runs.

The loop sets the noise levels itself and reads the solver's estimate of the clean latents. Most options can therefore
have one value only. Standard library only.
"""

from pathlib import Path
from typing import Any

from export.checkpoint.config_file import ConfigFile

CLASS = "UniPCMultistepScheduler"
TRAIN_TIMESTEPS = 1000  # Wan's noise levels are thousandths

_REASON = "Wan's noise levels are flow sigmas on 1000 timesteps, and the denoising loop passes them in."
_FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {  # diffusers' default, accepted values
    "prediction_type": ("epsilon", ("flow_prediction",)),
    "use_flow_sigmas": (False, (True,)),
    "num_train_timesteps": (1000, (TRAIN_TIMESTEPS,)),
    "predict_x0": (True, (True,)),
    "thresholding": (False, (False,)),
    "use_karras_sigmas": (False, (False,)),
    "use_exponential_sigmas": (False, (False,)),
    "use_beta_sigmas": (False, (False,)),
    "use_dynamic_shifting": (False, (False,)),
    "rescale_betas_zero_snr": (False, (False,)),
    "trained_betas": (None, (None,)),
    "solver_p": (None, (None,)),
    "sigma_min": (None, (None,)),
    "sigma_max": (None, (None,)),
    "shift_terminal": (None, (None,)),
    "solver_order": (2, (1, 2, 3)),
    "solver_type": ("bh2", ("bh2",)),  # diffusers' bh1 returns NaN where the last noise level is 0 ...
    "lower_order_final": (True, (True,)),  # ... and so does its last step with an order above 1
    "final_sigmas_type": ("zero", ("zero",)),
    "timestep_spacing": ("linspace", ("linspace", "leading", "trailing")),
    "time_shift_type": ("exponential", ("exponential", "linear")),
    "beta_schedule": ("linear", ("linear", "scaled_linear", "squaredcos_cap_v2")),
}
_NUMBERS = {
    "beta_start": 1.0,
    "beta_end": 1.0,
    "flow_shift": 1000.0,
    "dynamic_thresholding_ratio": 10.0,
    "sample_max_value": 1e6,
}


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Read and check `scheduler_config.json`. Raises CheckpointError."""
    config = ConfigFile.open(folder / "scheduler/scheduler_config.json")
    config.choice("_class_name", (CLASS,), default=CLASS, hint="The denoising loop runs this solver.")
    for name, (default, accepted) in _FIXED.items():
        config.choice(name, accepted, default=default, hint=_REASON)
    for name, below in _NUMBERS.items():
        if name in config.values:
            config.number(name, above=0.0, below=below)
    if "steps_offset" in config.values:
        config.integer("steps_offset", least=0)
    corrected = config.values.get("disable_corrector", [])
    if not isinstance(corrected, list) or not all(type(step) is int and step >= 0 for step in corrected):
        raise config.refused("disable_corrector", "a list of step numbers")
    return config.values
