"""Write the trained modules as a complete diffusers pipeline folder in half precision, ready for `export`."""

import json
import logging
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from export.atomic import written_folder
from export.mini_checkpoint import BOUNDARY_RATIO, FLOW_SHIFT, SERVING_DEFAULTS
from training.sampling import Modules
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.shapes import VideoShape

logger = logging.getLogger(__name__)

MAX_BYTES = 40_000_000  # of all files together: they live in the repository


class TooLargeError(Exception):
    """The checkpoint is larger than the repository takes."""


def write_checkpoint(modules: Modules, folder: Path, *, video: VideoShape) -> Path:
    """Write the checkpoint to `folder` (replaced whole or not at all) and return it. Raises TooLargeError."""
    pipeline = WanPipeline(
        tokenizer=modules.tokenizer,
        text_encoder=modules.text_encoder,
        transformer=modules.high_noise_expert,
        transformer_2=modules.low_noise_expert,
        vae=modules.vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
        boundary_ratio=BOUNDARY_RATIO,
    )
    for name in ("text_encoder", "transformer", "transformer_2", "vae"):
        torch.nn.Module.to(getattr(pipeline, name), torch.float16)  # all of it: diffusers' own `to` spares some layers
    with written_folder(folder) as partial:
        pipeline.save_pretrained(partial)
        (partial / DEFAULTS_FILE).write_text(json.dumps(serving_defaults(video), indent=2) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise TooLargeError(
                f"wan-mini has {size:,} bytes, at most {MAX_BYTES:,} are allowed. Train smaller modules."
            )
    logger.info("wrote %s: %s bytes", folder, f"{size:,}")
    return folder


def serving_defaults(video: VideoShape) -> dict[str, dict[str, object]]:
    """The defaults of the untrained wan-mini with the size that was trained: `{field: {"value", "source"}}`."""
    trained = {"height": video.height, "width": video.width, "num_frames": video.frames}
    defaults = {name: {"value": value, "source": source} for name, (value, source) in SERVING_DEFAULTS.items()}
    return defaults | {name: {"value": value, "source": "wan-mini: as trained"} for name, value in trained.items()}
