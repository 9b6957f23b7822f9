"""Serving defaults: Wan2.2-T2V-A14B's recommended values, each with its source. No config file has them."""

from pathlib import Path
from typing import Any

from export.checkpoint.config_file import CheckpointError, read_object
from wan_t2v.facts import DEFAULTS_FILE, ServingDefaults
from wan_t2v.field_checks.sizes import ServedSizes
from wan_t2v.request import resolve_settings
from wan_t2v.shapes import LatentGrid, VideoShape

_LARGEST = VideoShape(frames=100_000, height=100_000, width=100_000)  # no limit here: each deployment has its own
_CONFIG = "Wan2.2 wan/configs/wan_t2v_A14B.py"
_SHARED = "Wan2.2 wan/configs/shared_config.py"

# The official negative prompt is Chinese. MLPerf and NVIDIA's demo use an English translation: another prompt.
_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)

# EasyCache thresholds for 40 steps. The error that they cause in A14B's videos has not been measured.
STEP_PROFILES: dict[str, dict[str, float]] = {
    "quality": {"step_cache": 0.02},
    "balanced": {"step_cache": 0.05},
    "fast": {"step_cache": 0.1, "longest_reuse": 4},
}

A14B: dict[str, tuple[Any, str]] = {
    "height": (720, "Wan2.2 wan/configs/__init__.py SUPPORTED_SIZES, landscape"),
    "width": (1280, "Wan2.2 wan/configs/__init__.py SUPPORTED_SIZES, landscape"),
    "num_frames": (81, f"{_SHARED} frame_num"),
    "num_inference_steps": (40, f"{_CONFIG} sample_steps"),
    "guidance_scale": (4.0, f"{_CONFIG} sample_guide_scale, high noise"),
    "guidance_scale_2": (3.0, f"{_CONFIG} sample_guide_scale, low noise"),
    "flow_shift": (12.0, f"{_CONFIG} sample_shift"),
    "fps": (16, f"{_SHARED} sample_fps"),
    "negative_prompt": (_NEGATIVE_PROMPT, f"{_SHARED} sample_neg_prompt"),
    "solver": ("unipc", "Wan2.2 generate.py sample_solver"),
    "step_profiles": (
        STEP_PROFILES,
        "thresholds as published for Wan2.1 (EasyCache, arXiv 2507.02860; NVIDIA/TensorRT-Model-Connect); "
        "unmeasured for A14B",
    ),
}


def serving_defaults(checkpoint: Path, grid: LatentGrid) -> dict[str, dict[str, Any]]:
    """Read the checkpoint's own `serving_defaults.json` if it has one, as wan-mini does, else return A14B's defaults.

    The values are checked like a request's fields, since a request with the prompt alone must be served.
    Raises CheckpointError.
    """
    own = checkpoint / DEFAULTS_FILE
    if own.exists():
        entries = read_object(own)
        remedy = "Mend it, or remove it: the defaults of Wan2.2-T2V-A14B are then taken."
    else:
        entries = {name: {"value": value, "source": source} for name, (value, source) in A14B.items()}
        remedy = "The defaults of Wan2.2-T2V-A14B do not fit this checkpoint, so it needs a file of its own."
    _check(own, entries, grid, remedy)
    return entries


def _check(path: Path, entries: dict[str, Any], grid: LatentGrid, remedy: str) -> None:
    try:
        defaults = ServingDefaults.from_entries(entries)
        resolve_settings(
            {"prompt": "a request with nothing else"},
            latents_shape=None,
            defaults=defaults,
            grid=grid,
            served=ServedSizes(largest=_LARGEST),
            fallback_seed=0,
        )
    except ValueError as error:  # includes InvalidField
        raise CheckpointError(f"{path}: {str(error).rstrip('.')}. {remedy}") from None
