"""Values that no config file of the checkpoint holds: Wan2.2-T2V-A14B's recommendations, each with its source."""

import json
from pathlib import Path
from typing import Any

from wan_t2v.facts import DEFAULTS_FILE

_CONFIG = "Wan2.2 wan/configs/wan_t2v_A14B.py"
_SHARED = "Wan2.2 wan/configs/shared_config.py"

# The official negative prompt is Chinese; MLPerf and NVIDIA's demo use an English rendering, which is another prompt.
_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)

A14B = {
    "height": (720, "Wan2.2 wan/configs/__init__.py SUPPORTED_SIZES, landscape"),
    "width": (1280, "Wan2.2 wan/configs/__init__.py SUPPORTED_SIZES, landscape"),
    "num_frames": (81, f"{_SHARED} frame_num"),
    "num_inference_steps": (40, f"{_CONFIG} sample_steps"),
    "guidance_scale": (4.0, f"{_CONFIG} sample_guide_scale, high noise"),
    "guidance_scale_2": (3.0, f"{_CONFIG} sample_guide_scale, low noise"),
    "flow_shift": (12.0, f"{_CONFIG} sample_shift"),
    "fps": (16, f"{_SHARED} sample_fps"),
    "negative_prompt": (_NEGATIVE_PROMPT, f"{_SHARED} sample_neg_prompt"),
}


def serving_defaults(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The checkpoint's own `serving_defaults.json` if it brings one (wan-mini does), else A14B's."""
    own = checkpoint / DEFAULTS_FILE
    if own.exists():
        found: dict[str, dict[str, Any]] = json.loads(own.read_text(encoding="utf-8"))
        return found
    return {name: {"value": value, "source": source} for name, (value, source) in A14B.items()}
