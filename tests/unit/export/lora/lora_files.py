"""LoRAs for wan-mini in the published formats, with random numbers."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.weights.safetensors_index import stored_tensors

ROOT = Path(__file__).parents[4]
MINI = ROOT / "training/wan-mini"
SHAPES = {name: tensor.shape for name, tensor in stored_tensors(MINI, "transformer", links_allowed=True).items()}
BLOCKS = 4
RANK = 4
# what a block's linear layers are called by diffusers and by Wan's own code
LINEAR = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in zip(("to_q", "to_k", "to_v", "to_out.0"), "qkvo", strict=True)},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in zip(("to_q", "to_k", "to_v", "to_out.0"), "qkvo", strict=True)},
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}  # fmt: skip


def random(shape: tuple[int, ...], seed: str, size: float = 0.05) -> Tensor:
    """Numbers that depend on `seed` alone, whatever else is made."""
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(sum(map(ord, seed)) * 7919))


def modules() -> dict[str, str]:
    """Every linear layer of every block: diffusers' name and Wan's."""
    return {f"blocks.{n}.{ours}": f"blocks.{n}.{theirs}" for n in range(BLOCKS) for ours, theirs in LINEAR.items()}


def factors(module: str, seed: str = "", rank: int = RANK) -> tuple[Tensor, Tensor]:
    """A layer's down and up."""
    rows, columns = SHAPES[f"{module}.weight"]
    return random((rank, columns), f"{seed}{module}d"), random((rows, rank), f"{seed}{module}u")


def of_diffusers(seed: str = "") -> dict[str, Tensor]:
    tensors = {}
    for module in modules():
        tensors[f"transformer.{module}.lora_A.weight"], tensors[f"transformer.{module}.lora_B.weight"] = factors(
            module, seed
        )
    return tensors


def of_lightx2v(seed: str = "") -> dict[str, Tensor]:
    """With an alpha per layer, biases, layers outside of the blocks, and the head as a plain difference."""
    tensors = {}
    for module, name in modules().items():
        down, up = factors(module, seed)
        tensors |= {
            f"diffusion_model.{name}.lora_down.weight": down,
            f"diffusion_model.{name}.lora_up.weight": up,
            f"diffusion_model.{name}.alpha": torch.tensor(2.0),
            f"diffusion_model.{name}.diff_b": random((up.shape[0],), f"{seed}{module}b"),
        }
    outside = {"condition_embedder.time_proj": "time_projection.1"} | {
        f"condition_embedder.{kind}_embedder.linear_{n}": f"{kind}_embedding.{(n - 1) * 2}"
        for kind in ("text", "time")
        for n in (1, 2)
    }
    for module, name in outside.items():
        down, up = factors(module, seed)
        tensors[f"diffusion_model.{name}.lora_down.weight"] = down
        tensors[f"diffusion_model.{name}.lora_up.weight"] = up
    tensors["diffusion_model.head.head.diff"] = random(SHAPES["proj_out.weight"], f"{seed}head")
    tensors["diffusion_model.head.head.diff_b"] = random(SHAPES["proj_out.bias"], f"{seed}headb")
    return tensors


def of_kohya(seed: str = "") -> dict[str, Tensor]:
    tensors = {}
    for module, name in modules().items():
        down, up = factors(module, seed)
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(1.0)}
    return tensors


def saved(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> Path:
    """A file of these tensors; `metadata` is what diffusers writes into the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(metadata)} if metadata else {})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=header)
    return path
