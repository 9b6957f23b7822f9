"""Read a diffusers checkpoint folder: is it Wan2.2-T2V, what are its facts, its modules, its hash."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from export.precision import torch_dtype
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import LatentGrid

EXPECTED_CLASSES = {
    "scheduler": "UniPCMultistepScheduler",
    "text_encoder": "UMT5EncoderModel",
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
}
MAX_WEIGHTS_BYTES = 900_000_000  # half-precision weights double when they are loaded in FP32; protobuf ends at 2 GiB
_LOADERS: dict[str, Any] = {
    "text_encoder": UMT5EncoderModel,
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
}


class CheckpointError(Exception):
    """The folder is no Wan2.2-T2V checkpoint in diffusers' layout; the message says what is wrong and the remedy."""


def check_checkpoint(folder: Path) -> None:
    """Refuse, before any work, a folder that this project cannot serve. Raises CheckpointError."""
    index = _config(folder, "model_index.json")
    for component, expected in EXPECTED_CLASSES.items():
        found = (index.get(component) or [None, "nothing"])[1]
        if found != expected:
            raise CheckpointError(
                f"{folder}: {component} is {found}, expected {expected}. "
                "This is not Wan2.2-T2V-A14B-Diffusers (or wan-mini); other Wan models are not served here."
            )
    if index.get("boundary_ratio") is None or index.get("expand_timesteps"):
        raise CheckpointError(f"{folder}: model_index.json has no boundary_ratio: not a two-expert Wan2.2-T2V model.")


def is_small(folder: Path) -> bool:
    """Whether the weights of every component fit inside an ONNX file, also in FP32."""
    return all(weights_bytes(folder, component) <= MAX_WEIGHTS_BYTES for component in _LOADERS)


def check_small_enough(folder: Path) -> None:
    """Refuse weights that do not fit in one ONNX file. Raises CheckpointError."""
    for component in _LOADERS:
        stored = weights_bytes(folder, component)
        if stored > MAX_WEIGHTS_BYTES:
            raise CheckpointError(
                f"{folder / component} holds {stored / 1e9:.1f} GB of weights; a graph can have at most "
                f"{MAX_WEIGHTS_BYTES / 1e9:.1f} GB inside. Leave them beside the graph: `--weights beside`."
            )


def weights_bytes(folder: Path, component: str) -> int:
    """Size of a component's `.safetensors` files."""
    return sum(path.stat().st_size for path in (folder / component).glob("*.safetensors"))


def facts_from_checkpoint(folder: Path) -> ModelFacts:
    """Collect the model's facts from its config files. Raises CheckpointError."""
    check_checkpoint(folder)
    index = _config(folder, "model_index.json")
    scheduler = _config(folder, "scheduler/scheduler_config.json")
    transformer = _config(folder, "transformer/config.json")
    vae = _config(folder, "vae/config.json")
    return ModelFacts(
        grid=LatentGrid(
            channels=vae["z_dim"],
            time_stride=2 ** sum(vae["temperal_downsample"]),  # diffusers' spelling
            space_stride=2 ** len(vae["temperal_downsample"]),
            patch=transformer["patch_size"][1],
        ),
        latents_mean=tuple(vae["latents_mean"]),
        latents_std=tuple(vae["latents_std"]),
        boundary_ratio=index["boundary_ratio"],
        num_train_timesteps=scheduler["num_train_timesteps"],
        scheduler=scheduler,
        text_length=_text_length(folder),
        text_dim=transformer["text_dim"],
    )


def _text_length(folder: Path) -> int:
    """What WanPipeline pads to (512, in no config file), unless the tokenizer says less."""
    pipeline_default: int = inspect.signature(WanPipeline.__call__).parameters["max_sequence_length"].default
    longest: int = _config(folder, "tokenizer/tokenizer_config.json").get("model_max_length", pipeline_default)
    return min(pipeline_default, longest)


def module_from_checkpoint(folder: Path, component: str, precision: str = "fp32") -> nn.Module:
    """Load one component for inference; `text_encoder` with eager attention, which exports.

    In half precision diffusers keeps its FP32 islands, since the weights are loaded so and not converted after.
    """
    options: dict[str, Any] = {"torch_dtype": torch_dtype(precision), "local_files_only": True}
    if component == "text_encoder":
        options = {"dtype": torch_dtype(precision), "local_files_only": True, "attn_implementation": "eager"}
    module: Any = _LOADERS[component].from_pretrained(folder / component, **options)
    if component == "text_encoder" and not module.encoder.embed_tokens.weight.any():
        raise CheckpointError(f"{folder / component}: the embedding is all zeros: every prompt would mean the same.")
    loaded: nn.Module = module.eval().requires_grad_(False)
    return loaded


def save_tokenizer(folder: Path, target: Path) -> None:
    """Write the checkpoint's tokenizer as one `tokenizer.json`, the form that serving reads."""
    AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True).backend_tokenizer.save(str(target))


def component_sha256(folder: Path, component: str) -> str:
    """One hash over a component's config and weights, file names included."""
    digest = hashlib.sha256()
    for path in sorted((folder / component).iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing. CHECKPOINT must be a folder in diffusers' layout, such as Wan2.2-T2V-A14B-Diffusers; "
            "`python -m export mini` makes a small one."
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download it again.") from None
    return config
