"""Name formats of LoRA tensors: a prefix, a module of the expert, and a suffix for the tensor's role.

transformer.blocks.0.attn1.to_q.lora_A.weight              diffusers
base_model.model.blocks.0.attn1.to_q.lora_A.weight         PEFT; also base_model.model.diffusion_model.
diffusion_model.blocks.0.self_attn.q.lora_down.weight      lightx2v, ComfyUI; also .alpha, .diff, .diff_b, .diff_m
pipe.dit.blocks.0.self_attn.q.lora_A.default.weight        DiffSynth
lora_unet_blocks_0_self_attn_q.lora_down.weight            kohya
lora_unet__blocks_0_self_attn_q.lora_down.weight           VideoX-Fun
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

ACCEPTED = (
    "lora_A/lora_B or lora_down/lora_up with .weight, .alpha, .diff, .diff_b, .diff_m, under modules in the names of "
    "diffusers (transformer.blocks.0.attn1.to_q), PEFT (base_model.model...), Wan's code "
    "(diffusion_model.blocks.0.self_attn.q), DiffSynth (pipe.dit...), kohya (lora_unet_blocks_0_self_attn_q) or "
    "VideoX-Fun (lora_unet__blocks...)"
)
SECOND_EXPERT = "transformer_2."


class Role(Enum):
    """Role of a tensor: a factor of a product, its bias or alpha, or a difference that is added as it is."""

    DOWN = "down"
    UP = "up"
    UP_BIAS = "up_bias"
    ALPHA = "alpha"
    DIFF = "diff"
    BIAS_DIFF = "bias_diff"


_ROLES = {
    ".lora_A.weight": Role.DOWN,
    ".lora_B.weight": Role.UP,
    ".lora_B.bias": Role.UP_BIAS,
    ".lora_A.default.weight": Role.DOWN,  # `default`: PEFT's name of an unnamed adapter
    ".lora_B.default.weight": Role.UP,
    ".lora_B.default.bias": Role.UP_BIAS,
    ".lora_down.weight": Role.DOWN,
    ".lora_up.weight": Role.UP,
    ".lora.down.weight": Role.DOWN,
    ".lora.up.weight": Role.UP,
    ".alpha": Role.ALPHA,
    ".diff": Role.DIFF,
    ".diff_b": Role.BIAS_DIFF,
}
_TABLE_DIFF = ".diff_m"  # lightx2v: difference of a modulation table, named after the module that has the table
_PARTNERS = {
    ".lora_A.": ".lora_B.",
    ".lora_B.": ".lora_A.",
    ".lora_down.": ".lora_up.",
    ".lora_up.": ".lora_down.",
    ".lora.down.": ".lora.up.",
    ".lora.up.": ".lora.down.",
}
_PREFIXES = (  # the longest first of those that begin alike
    "base_model.model.diffusion_model.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    SECOND_EXPERT,
    "transformer.",
    "pipe.dit.",
    "lora_unet__",
    "lora_unet_",
    "",
)


@dataclass(frozen=True)
class LoraKey:
    """A tensor name that was parsed. `module` is diffusers' module name."""

    module: str
    role: Role


def read_key(key: str, modules: Mapping[str, str]) -> LoraKey | None:
    """Parse a tensor's name. `modules` has diffusers' module name by spelling. None for an unknown format."""
    if key.endswith(_TABLE_DIFF):
        return read_key(f"{key.removesuffix(_TABLE_DIFF)}.modulation.diff", modules)
    suffix = next((suffix for suffix in _ROLES if key.endswith(suffix)), None)
    if suffix is None:
        return None
    spelled = key.removesuffix(suffix)
    for prefix in _PREFIXES:
        if spelled.startswith(prefix) and spelled.removeprefix(prefix) in modules:
            return LoraKey(modules[spelled.removeprefix(prefix)], _ROLES[suffix])
    return None


def partner_of(key: str) -> str:
    """Return the name of the other factor of a product. Raises ValueError for a name of no factor."""
    for part, other in _PARTNERS.items():
        if part in key:
            return key.replace(part, other)
    raise ValueError(f"{key} is no factor of a product")
