"""LoRA of an expert: PEFT's factors for each linear layer, and their file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from export.atomic import write_atomically

RANK = 16
PREFIX = "transformer"  # prefix of diffusers' names, also in the second expert's file
_ADAPTER = "default"


def add_lora(expert: WanTransformer3DModel) -> nn.ModuleDict:
    """Freeze the expert, add a LoRA to each of its linear layers, and return the factors by layer and factor name.

    Alpha equals the rank, so the scale is 1. PEFT initialises `lora_B` to zero, so the expert's output is unchanged at
    first.
    """
    expert.requires_grad_(False)
    layers = [name for name, module in expert.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), expert)
    factors = {}
    for name, module in expert.named_modules():
        if isinstance(module, LoraLayer):
            for factor in ("lora_A", "lora_B"):
                factors[f"{name}.{factor}".replace(".", "/")] = getattr(module, factor)[_ADAPTER]
    return nn.ModuleDict(factors)  # ModuleDict keys may not contain dots


def write_lora(factors: nn.Module, path: Path, *, about: Mapping[str, str]) -> Path:
    """Write the factors in FP16 with diffusers' names. `about` goes into the header. Returns `path`."""
    tensors = {
        f"{PREFIX}.{name.replace('/', '.')}": value.detach().to(torch.float16).contiguous()
        for name, value in factors.named_parameters()
    }
    with write_atomically(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt", **about})
    return path
