"""Weight layouts other than diffusers', recognised by tensor names and types, each with a remedy.

Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from export.checkpoint.config_file import DOWNLOAD

_CONVERT = (
    "Take the checkpoint in diffusers' layout, or convert it with `scripts/convert_wan_to_diffusers.py` of diffusers."
)
_MERGE = (
    "An adapter is merged into the experts of a checkpoint while that is exported: "
    "`make export CHECKPOINT=... LORA_HIGH=FILE LORA_LOW=FILE`."
)
_UNQUANTISED = f"Take the published weights (`{DOWNLOAD}`); PRECISION=fp8 quantises them here."
_UNWRAP = "Save the module itself (`module.save_pretrained`), not the wrapper that trained it."


@dataclass(frozen=True)
class ForeignLayout:
    """One layout other than diffusers': the parts of tensor names that identify it, its description, the remedy."""

    marks: tuple[str, ...]
    what: str
    remedy: str


LAYOUTS = (
    ForeignLayout(
        (".scale_weight", ".scale_input", ".weight_scale", ".input_scale", "scaled_fp8", "_quantizer.", ".comfy_quant"),
        "scaled FP8 weights, whose numbers mean nothing without the scales beside them",
        _UNQUANTISED,
    ),
    ForeignLayout((".quant_state.", ".absmax", ".qweight", ".qzeros"), "weights in a quantised form", _UNQUANTISED),
    ForeignLayout(("lora_A.", "lora_B.", "lora_up.", "lora_down.", ".lora.", ".hada_", ".lokr_"), "a LoRA", _MERGE),
    ForeignLayout((".base_layer.", "base_model.model.", ".modules_to_save."), "an unmerged PEFT model", _MERGE),
    ForeignLayout(("model.diffusion_model.",), "a checkpoint of ComfyUI or of the original code", _CONVERT),
    ForeignLayout(
        (".self_attn.q.", ".cross_attn.q.", "text_embedding.0.", "time_embedding.0.", "head.modulation"),
        "an expert with the names of Wan's original code",
        _CONVERT,
    ),
    ForeignLayout(
        ("token_embedding.weight", ".ffn.gate.0.", ".pos_embedding.embedding."),
        "a text encoder with the names of Wan's original code",
        _CONVERT,
    ),
    ForeignLayout(
        (".decoder.middle.0.", ".decoder.upsamples."),
        "a VAE with the names of Wan's original code",
        _CONVERT,
    ),
    ForeignLayout(("._orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."), "a wrapped module", _UNWRAP),
    ForeignLayout(
        ("image_embedder.", "add_k_proj", "vace_blocks.", "control_adapter.", "audio_proj"),
        "an expert of another Wan model, which takes an image, a control video or sound",
        "Only text-to-video is served here.",
    ),
)
_WRAPPED = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "transformer.", "vae.", "text_encoder.")


def foreign_layout(surplus: list[str], missing: list[str]) -> str | None:
    """Describe the layout, with the remedy, if surplus tensor names identify a known one."""
    for prefix in _WRAPPED:
        if missing and {f"{prefix}{name}" for name in missing} <= set(surplus):
            return f"every name begins with {prefix!r}, as of a wrapped module. {_UNWRAP}"
    for layout in LAYOUTS:
        named = next((name for name in surplus if any(mark in f".{name}" for mark in layout.marks)), None)
        if named is not None:
            return f"this looks like {layout.what} (it has {named}). {layout.remedy}"
    return None


def foreign_type(path: str, name: str, dtype: str, names: Mapping[str, object]) -> str:
    """Return the message for a tensor of a type that cannot be exported, with the remedy."""
    scaled = foreign_layout(list(names), [])
    if dtype.startswith("F8_") and (scaled is None or "scaled FP8" in scaled):
        return f"{path}: {name} is stored in FP8 ({dtype}), accepted: F32, F16, BF16. {_UNQUANTISED}"
    return f"{path}: {name} is stored as {dtype}, accepted: F32, F16, BF16. {scaled or _UNQUANTISED}"
