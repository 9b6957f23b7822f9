"""What a folder is that is no pipeline."""

from pathlib import Path

import pytest

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import Checkpoint


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("wan.safetensors", "is a single file of weights, as ComfyUI takes. CHECKPOINT must be a folder"),
        ("wan-Q4_K_M.gguf", "is a GGUF file, whose weights are quantised"),
        ("nothing", "is missing: no such folder"),
        ("f/high_noise_model/config.json", "model_index.json is missing; this is the original checkpoint of Wan2.2"),
        ("f/Wan2.1_VAE.pth", "this is an original checkpoint of Wan"),
        ("f/split_files/vae/x.safetensors", "this is a folder of ComfyUI"),
        ("f/high_noise-Q8_0.gguf", "this is a folder of GGUF files"),
        ("f/adapter_config.json", "this is a PEFT adapter"),
        ("f/my_lora_v2.safetensors", "this is a LoRA"),
        ("f/config.json", "this is a single component and no pipeline"),
        ("f/snapshots/0123/model_index.json", "it is in .*snapshots/0123, so that is the folder to name"),
        ("f/readme.txt", r"is missing .found: readme.txt"),
    ],
)
def test_what_is_no_pipeline_is_named(layout: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / layout
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout != "nothing":
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / Path(layout).parts[0]).check()
