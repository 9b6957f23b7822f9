"""Packing of trained modules as a diffusers pipeline folder in FP16, the input of `export`, and loading of it."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from export.atomic import write_folder_atomically
from export.checkpoint.mini import BOUNDARY_RATIO, FLOW_SHIFT, SERVING_DEFAULTS, is_wan_mini
from export.quantisation.prompts import PROMPTS_FILE
from export.to_onnx.latent_preview import fit_preview
from training.learn.sampling import Modules
from training.learn.vae_stage import vae_input
from training.world.clips import numbered_clip
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.preview import PREVIEW_FILE, PreviewMap
from wan_t2v.shapes import VideoShape

logger = logging.getLogger(__name__)

PREVIEW_CLIPS = 48
CALIBRATION_PROMPTS = 16
MAX_BYTES = 40_000_000  # of all files, which are committed to this repository


class TooLargeError(Exception):
    """A checkpoint that is too large to commit."""


def write_checkpoint(modules: Modules, folder: Path, *, video: VideoShape) -> Path:
    """Write the checkpoint to `folder`, atomically, and return `folder`.

    Raises TooLargeError, and OccupiedFolderError for a folder that holds something other than a wan-mini.
    """
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
        torch.nn.Module.to(getattr(pipeline, name), torch.float16)  # diffusers' own `to` keeps some layers in FP32
    with write_folder_atomically(folder, made_here=is_wan_mini) as partial:
        pipeline.save_pretrained(partial)
        (partial / DEFAULTS_FILE).write_text(json.dumps(serving_defaults(video), indent=2) + "\n", encoding="utf-8")
        captions = [numbered_clip(0, index, video=video).caption for index in range(CALIBRATION_PROMPTS)]
        (partial / PROMPTS_FILE).write_text("\n".join(captions) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise TooLargeError(
                f"wan-mini has {size:,} bytes, at most {MAX_BYTES:,} are allowed. Train smaller modules."
            )
        (partial / PREVIEW_FILE).write_text(preview_of(modules.vae, video=video).to_json(), encoding="utf-8")
    logger.info("wrote %s: %s bytes", folder, f"{size:,}")
    return folder


def preview_of(vae: AutoencoderKLWan, *, video: VideoShape, seed: int = 0) -> PreviewMap:
    """Fit the preview map to training clips, since this VAE is trained on such clips only."""
    clips = np.stack([numbered_clip(seed, index, video=video).frames for index in range(PREVIEW_CLIPS)])
    return fit_preview(copy.deepcopy(vae).float(), vae_input(clips))


def load_packed_modules(folder: Path) -> Modules:
    """Load the modules of a packed checkpoint in FP32, for inference."""
    pipeline = WanPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    modules = [pipeline.text_encoder, pipeline.transformer, pipeline.transformer_2, pipeline.vae]
    text_encoder, high, low, vae = (module.eval().requires_grad_(False) for module in modules)
    return Modules(pipeline.tokenizer, text_encoder, high, low, vae)


def serving_defaults(video: VideoShape) -> dict[str, dict[str, object]]:
    """Return the untrained wan-mini's defaults with the trained size, as `{field: {"value", "source"}}`."""
    trained = {"height": video.height, "width": video.width, "num_frames": video.frames}
    defaults = {name: {"value": value, "source": source} for name, (value, source) in SERVING_DEFAULTS.items()}
    return defaults | {name: {"value": value, "source": "wan-mini: as trained"} for name, value in trained.items()}
