"""The LoRA of an expert: factors beside each linear layer, by PEFT, and their file."""

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
PREFIX = "transformer"  # of diffusers' names, also in the file for the second expert
_ADAPTER = "default"


def add_lora(expert: WanTransformer3DModel) -> nn.ModuleDict:
    """Freeze the expert, put a LoRA beside each of its linear layers, and return what is trained, by layer and factor.

    Alpha is the rank, so a product counts once. One factor starts at zero: at first nothing changes.
    """
    expert.requires_grad_(False)
    layers = [name for name, module in expert.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), expert)
    factors = {}
    for name, module in expert.named_modules():
        if isinstance(module, LoraLayer):
            for factor in ("lora_A", "lora_B"):
                factors[f"{name}.{factor}".replace(".", "/")] = getattr(module, factor)[_ADAPTER]
    return nn.ModuleDict(factors)  # its keys take no dots


def write_lora(factors: nn.Module, path: Path, *, about: Mapping[str, str]) -> Path:
    """Write the factors in half precision, in diffusers' names. `about` goes into the header."""
    tensors = {
        f"{PREFIX}.{name.replace('/', '.')}": value.detach().to(torch.float16).contiguous()
        for name, value in factors.named_parameters()
    }
    with write_atomically(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt", **about})
    return path
