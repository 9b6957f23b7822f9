"""An expert of three small blocks, a call of it, and how far two answers are apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from numpy.typing import NDArray

BLOCKS = 3


def expert(folder: Path, dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    torch.manual_seed(0)
    module = WanTransformer3DModel.from_config(json.loads((folder / "transformer/config.json").read_text()))
    return module.to(dtype).eval().requires_grad_(False)


def call(module: WanTransformer3DModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 3, 8, 8, generator=random)
    return latents, torch.tensor([700.0]), torch.randn(1, 12, module.config.text_dim, generator=random)


def arrays(latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> dict[str, NDArray[Any]]:
    return {
        "hidden_states": latents.numpy(),
        "timestep": timestep[:, None].numpy(),
        "encoder_hidden_states": text.numpy(),
    }


def relative(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
