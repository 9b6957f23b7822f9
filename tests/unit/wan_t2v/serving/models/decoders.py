"""The model `vae_decoder` in the test's own process: its config, its signed requests, its files."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from tests.fakes.pb_utils import FakePbUtils, FakeRequest
from wan_t2v.operate.run_directory import RunDirectory, chosen_path
from wan_t2v.request import Settings
from wan_t2v.serving.models.vae_decoder import FIRST, NEXT, VaeDecoder
from wan_t2v.serving.signed_settings import Generation, SettingsSigner

SETTINGS = Settings(
    prompt="x", negative_prompt="", height=32, width=48, num_frames=21, num_inference_steps=1, guidance_scale=1.0,
    guidance_scale_2=1.0, flow_shift=12.0, seed=0, fps=16, output_type="frames", video_encoding="raw",
)  # fmt: skip


def decoder(repository: Path, pb_utils: FakePbUtils, *, kind: str = "CPU", **parameters: str) -> VaeDecoder:
    values = {"latent_frames_per_call": "1", "threads": "1", **parameters}
    config = {"name": "vae_decoder", "parameters": {name: {"string_value": text} for name, text in values.items()}}
    return VaeDecoder(
        pb_utils,
        {
            "model_config": json.dumps(config),
            "model_repository": str(repository / "vae_decoder"),
            "model_version": "1",
            "model_instance_kind": kind,
            "model_instance_device_id": "0",
        },
    )


def signed(settings: Settings = SETTINGS, generation_id: str = "1", deadline: float | None = None) -> str:
    """As `prepare` hands settings on in this server's run."""
    key = RunDirectory.of_server(chosen_path(), os.getppid()).key()
    return SettingsSigner(key).sign(Generation(settings, generation_id, deadline))


def clips() -> list[torch.Tensor]:
    """Latents of the size in SETTINGS."""
    return [torch.randn(1, 16, 6, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def frames(model: VaeDecoder) -> list[Any]:
    pictures = []
    for latents in clips():
        (response,) = model.execute([FakeRequest(latents_to_decode=latents, settings=signed())])
        assert not response.has_error(), response.error().message()
        pictures.append(response.output_tensors()[1].as_numpy())
    return pictures


def link_decoders(repository: Path, programs: Path, folder: Path) -> Path:
    """A repository of the VAE alone, with torch programs beside the graphs' manifests and no ONNX file."""
    for model, source, names in (
        ("vae_decoder", repository, ("model_facts.json", "manifest.json")),
        *((name, repository, ("manifest.json",)) for name in (FIRST, NEXT)),
        *((name, programs, ("model.pt2", "program.json")) for name in (FIRST, NEXT)),
    ):
        (folder / model / "1").mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / model / "1" / name).symlink_to(source / model / "1" / name)
    return folder
