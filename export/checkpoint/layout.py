"""Layout check by `model_index.json`: whether a folder is a Wan2.2-T2V pipeline, and if not, what it is.

Standard library only.
"""

import json
from pathlib import Path
from typing import Any

from export.checkpoint.config_file import DOWNLOAD, CheckpointError, ConfigFile

EXPECTED_CLASSES = {
    "scheduler": "UniPCMultistepScheduler",
    "text_encoder": "UMT5EncoderModel",
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
}
INDEX = "model_index.json"
MADE_BY_DRY_RUN = ".made-by-dry-run"  # in each folder that a dry run may replace; merges do not copy hidden files
COPIED_FILES = ".merge.json"  # in a merged folder: what the merge copied (export/lora/copied_files.py); hidden too

_LAYOUT = f"CHECKPOINT must be a folder in diffusers' layout: `{DOWNLOAD}`; `python -m export mini` makes a small one."
_OTHER_PIPELINES = {
    "WanImageToVideoPipeline": "an image-to-video checkpoint",
    "WanVACEPipeline": "a VACE checkpoint",
    "WanVideoToVideoPipeline": "a video-to-video checkpoint",
    "WanAnimatePipeline": "an Animate checkpoint",
    "WanSpeechToVideoPipeline": "a speech-to-video checkpoint",
}
_SINGLE_FILES = {
    ".gguf": "a GGUF file, whose weights are quantised",
    ".safetensors": "a single file of weights, as ComfyUI takes",
    ".ckpt": "a single file of pickled weights",
    ".pt": "a single file of pickled weights",
    ".pth": "a single file of pickled weights",
    ".bin": "a single file of pickled weights",
}
_FOREIGN_FOLDERS = (  # pairs: glob pattern inside the folder, description for the message
    ("*/high_noise_model", "the original checkpoint of Wan2.2"),
    ("high_noise_model", "the original checkpoint of Wan2.2"),
    ("*Wan2.?_VAE.pth", "an original checkpoint of Wan"),
    ("split_files", "a folder of ComfyUI"),
    ("diffusion_models", "a folder of ComfyUI"),
    ("*.gguf", "a folder of GGUF files, whose weights are quantised"),
    ("adapter_config.json", "a PEFT adapter, which is no model by itself: it goes into LORA_HIGH or LORA_LOW"),
    ("*lora*.safetensors", "a LoRA, which is no model by itself: it goes into LORA_HIGH or LORA_LOW"),
    ("config.json", "a single component and no pipeline"),
)


def check_layout(folder: Path) -> ConfigFile:
    """Read `model_index.json` and check the pipeline's components. Raises CheckpointError."""
    if folder.is_file():
        what = _SINGLE_FILES.get(folder.suffix.lower(), "a file")
        raise CheckpointError(f"{folder} is {what}. {_LAYOUT}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing: no such folder. {_LAYOUT}")
    if not (folder / INDEX).exists():
        raise CheckpointError(f"{folder / INDEX} is missing{_instead(folder)}. {_LAYOUT}")
    index = ConfigFile.open(folder / INDEX)
    _check_pipeline(folder, index)
    return index


def is_of_a_dry_run(folder: Path) -> bool:
    """Whether a dry run made the folder, and may replace it. Its weights are zeros."""
    return (folder / MADE_BY_DRY_RUN).exists()


def is_dummy(folder: Path) -> bool:
    """Whether the weights are a dry run's zeros, in its own folder or in what merges made of one."""
    return is_of_a_dry_run(folder) or MADE_BY_DRY_RUN in (read_copied_files(folder) or {})


def read_copied_files(folder: Path) -> dict[str, str] | None:
    """Read the hashes in a merged folder. None for a folder that is missing, or was merged before they were written."""
    try:
        content = json.loads((folder / COPIED_FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _check_pipeline(folder: Path, index: ConfigFile) -> None:
    pipeline = index.values.get("_class_name")
    if isinstance(pipeline, str) and pipeline in _OTHER_PIPELINES:
        raise CheckpointError(
            f"{folder} is {_OTHER_PIPELINES[pipeline]}. Only text-to-video (WanPipeline) is served here."
        )
    if index.values.get("expand_timesteps"):
        raise CheckpointError(
            f"{folder} is a checkpoint of Wan2.2-TI2V-5B (expand_timesteps): one expert and another VAE. "
            "Only the two experts of Wan2.2-T2V-A14B-Diffusers (or wan-mini) are served here."
        )
    for component, expected in EXPECTED_CLASSES.items():
        actual = _class_of(index.values.get(component))
        if actual != expected:
            raise CheckpointError(
                f"{folder}: {component} is {actual}, expected {expected}. "
                "This is not Wan2.2-T2V-A14B-Diffusers (or wan-mini); other Wan models are not served here."
            )
    if "boundary_ratio" not in index.values or index.values["boundary_ratio"] is None:
        raise CheckpointError(
            f"{folder}: model_index.json has no boundary_ratio: not a two-expert Wan2.2-T2V model. {_LAYOUT}"
        )
    index.number("boundary_ratio", above=0.0, below=1.0)


def _class_of(entry: Any) -> str:
    """Return the class name in a component's `[library, class]` entry."""
    if isinstance(entry, list) and len(entry) == 2 and (entry[1] is None or isinstance(entry[1], str)):
        return str(entry[1])
    return "nothing" if entry is None else repr(entry)[:40]


def _instead(folder: Path) -> str:
    """Describe what the folder is, or list its first files if that is unknown."""
    for inner in (*sorted(folder.glob(f"*/{INDEX}")), *sorted(folder.glob(f"snapshots/*/{INDEX}"))):
        return f"; it is in {inner.parent}, so that is the folder to name"
    for pattern, what in _FOREIGN_FOLDERS:
        if any(folder.glob(pattern)):
            return f"; this is {what}"
    names = sorted(path.name for path in folder.iterdir())
    return f" (found: {', '.join(names[:8]) or 'an empty folder'})"
