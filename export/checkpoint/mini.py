"""Make an untrained wan-mini: a complete diffusers pipeline folder with Wan2.2's architecture and random weights.

Nothing is downloaded. The VAE has Wan's structure (stride 4x8x8, 16 channels) and statistics, and narrower layers. The
text encoder is a UMT5 with a position bias in every layer. The experts are 256 wide and have six blocks.
"""

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from export.atomic import write_folder_atomically
from export.checkpoint.layout import INDEX
from export.checkpoint.mini_tokenizer import train_tokenizer
from export.checkpoint.serving_defaults import A14B, STEP_PROFILES
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.manifests import MERGED_LORAS

logger = logging.getLogger(__name__)

_Module = TypeVar("_Module", bound=nn.Module)

TEXT_DIM = 256
TEXT_LENGTH = 64  # tokens; the training captions have fewer than 30
VOCABULARY = 1024
BOUNDARY_RATIO = 0.875  # Wan2.2's own
_OF_WAN_MINI = "wan-mini: "  # begins the source of each default that is not Wan2.2's own
FLOW_SHIFT = 3.0  # as the published checkpoint's scheduler_config.json; serving uses 12, see the defaults below

_CHOSEN_SIZE = f"{_OF_WAN_MINI}chosen for two CPU cores"
SERVING_DEFAULTS: dict[str, tuple[Any, str]] = {
    **A14B,
    "height": (128, _CHOSEN_SIZE),
    "width": (128, _CHOSEN_SIZE),
    "num_frames": (17, _CHOSEN_SIZE),
    "negative_prompt": ("", f"{_OF_WAN_MINI}the empty caption"),
    "step_profiles": (STEP_PROFILES, "as for A14B; what they cost wan-mini is in docs/use/speed.md"),
}


def write_mini_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, atomically, and return `folder`.

    Raises OccupiedFolderError for a folder that holds something other than a wan-mini.
    """
    torch.manual_seed(seed)
    pipeline = WanPipeline(
        tokenizer=train_tokenizer(vocabulary=VOCABULARY, text_length=TEXT_LENGTH),
        text_encoder=_text_encoder(),
        transformer=_expert(),
        transformer_2=_expert(),
        vae=_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
        boundary_ratio=BOUNDARY_RATIO,
    )
    defaults = {name: {"value": value, "source": source} for name, (value, source) in SERVING_DEFAULTS.items()}
    with write_folder_atomically(folder, made_here=is_wan_mini) as partial:
        pipeline.save_pretrained(partial)
        (partial / DEFAULTS_FILE).write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s: %s", folder, ", ".join(f"{n} {count:,}" for n, count in _parameters(pipeline).items()))
    return folder


def is_wan_mini(folder: Path) -> bool:
    """Whether the folder is a wan-mini, by the source of its default size. Merged checkpoints do not count."""
    if not (folder / INDEX).is_file() or (folder / MERGED_LORAS).exists():
        return False
    try:
        source = json.loads((folder / DEFAULTS_FILE).read_text(encoding="utf-8"))["height"]["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return str(source).startswith(_OF_WAN_MINI)


def _expert() -> WanTransformer3DModel:
    return _with_visible_norms(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=4,
            attention_head_dim=64,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=256,
            ffn_dim=1024,
            num_layers=6,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=1024,
        )
    )


def _vae() -> AutoencoderKLWan:
    return _with_visible_norms(
        AutoencoderKLWan(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
    )


def _text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=VOCABULARY,
        d_model=TEXT_DIM,
        d_kv=64,
        d_ff=512,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    return _with_visible_norms(UMT5EncoderModel(config))


def _with_visible_norms(module: _Module) -> _Module:
    """Spread the norm weights around one. At exactly one, a graph that lost a norm weight would pass every check."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith(("weight", "gamma")):
                parameter.mul_(1.0 + 0.2 * torch.randn_like(parameter))
    return module


def _parameters(pipeline: WanPipeline) -> dict[str, int]:
    modules = ("text_encoder", "transformer", "transformer_2", "vae")
    return {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in modules}
