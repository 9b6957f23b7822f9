"""Component modules without weights: parameters have a type and a shape but no storage (torch's `meta` device)."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from export.checkpoint.component_configs import component_config


def shell_of(checkpoint: Path, component: str) -> nn.Module:
    """Build the component's module on the `meta` device from its config alone.

    Raises NotImplementedError for a component whose computed buffers would be lost there.
    """
    with torch.device("meta"):
        module: nn.Module = _BUILDERS[component](checkpoint / component)
    if isinstance(module, WanTransformer3DModel):  # rotary tables are computed and not stored, so they need values
        module.rope = WanRotaryPosEmbed(
            module.config.attention_head_dim, module.config.patch_size, module.config.rope_max_seq_len
        )
    missing = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if missing:
        raise NotImplementedError(f"{component} computes buffers that would be lost without weights: {missing}")
    return module.eval().requires_grad_(False)


def text_encoder_config(checkpoint: Path) -> UMT5Config:
    """Read the text encoder's config from the file that is checked; transformers itself might read another one.

    Raises CheckpointError.
    """
    config: UMT5Config = UMT5Config.from_dict(component_config(checkpoint, "text_encoder").values)
    return config


def is_fp32_island(module: nn.Module, name: str) -> bool:
    """Whether `from_pretrained` keeps the parameter in FP32 at every precision (`_keep_in_fp32_modules`)."""
    if isinstance(module, UMT5EncoderModel):
        return False  # transformers applies its list in FP16 only, which the text encoder does not support here
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return not kept.isdisjoint(name.split("."))


def _expert(folder: Path) -> Any:
    return WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder, local_files_only=True))


def _vae(folder: Path) -> Any:
    return AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder, local_files_only=True))


def _text_encoder(folder: Path) -> Any:
    return UMT5EncoderModel._from_config(text_encoder_config(folder.parent), attn_implementation="eager")


_BUILDERS = {"text_encoder": _text_encoder, "transformer": _expert, "transformer_2": _expert, "vae": _vae}
