"""What the running server returns is what diffusers' own WanPipeline computes on the same weights and noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from wan_t2v_client import TextToVideo

LATENTS_TOLERANCE = 1e-4  # relative; fp32 on both sides, 1e-6 is usual
FRAMES_TOLERANCE = 1  # of 255
SHIFT = 12.0

REQUESTS: dict[str, dict[str, Any]] = {
    "negative prompt": {
        "prompt": "a red ball rolls left",
        "negative_prompt": "blue, blurred",
        "height": 128,
        "width": 128,
        "num_frames": 17,
        "num_inference_steps": 8,
        "guidance_scale": 4.0,
        "guidance_scale_2": 3.0,
        "seed": 1,
    },
    "latents given": {
        "prompt": "a green square grows larger",
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "num_inference_steps": 12,
        "guidance_scale": 5.0,
        "guidance_scale_2": 1.5,
        "latents": np.random.default_rng(5).standard_normal((1, 16, 3, 8, 12)).astype(np.float32),
    },
    "no negative pass": {
        "prompt": "Two  stars &amp; a ring",
        "height": 96,
        "width": 64,
        "num_frames": 25,  # two calls of the VAE's graphs
        "num_inference_steps": 15,
        "guidance_scale": 1.0,
        "guidance_scale_2": 3.0,
        "seed": 2**40,
    },
}


class Reference:
    """diffusers' pipeline. Its `set_timesteps` is wrapped to give Wan's official timesteps; nothing else is touched."""

    def __init__(self, checkpoint: Path) -> None:
        self.pipeline = WanPipeline.from_pretrained(checkpoint, local_files_only=True, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        scheduler = self.pipeline.scheduler
        original = scheduler.set_timesteps

        def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
            scheduler.register_to_config(flow_shift=SHIFT)
            sigmas = np.flip(1 - np.linspace(1, 1 / 1000, num_inference_steps + 1))[:-1].copy()
            original(sigmas=sigmas, device=device)

        scheduler.set_timesteps = set_timesteps

    def latents(self, *, exchanged: bool = False, **request: Any) -> np.ndarray:
        pipeline = self.pipeline
        experts = (pipeline.transformer, pipeline.transformer_2)
        pipeline.transformer, pipeline.transformer_2 = reversed(experts) if exchanged else experts
        try:
            return pipeline(**self._arguments(request), output_type="latent").frames.numpy()
        finally:
            pipeline.transformer, pipeline.transformer_2 = experts

    def frames(self, **request: Any) -> np.ndarray:
        video = self.pipeline(**self._arguments(request), output_type="np").frames[0]
        return (video * 255).round().astype(np.uint8)

    def _arguments(self, request: dict[str, Any]) -> dict[str, Any]:
        arguments = {"negative_prompt": "", **request, "max_sequence_length": 64}
        if "seed" in arguments:
            arguments["generator"] = torch.Generator().manual_seed(arguments.pop("seed"))
        if "latents" in arguments:
            arguments["latents"] = torch.from_numpy(arguments["latents"])
        return arguments


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", REQUESTS)
def test_latents_and_frames_equal_those_of_diffusers(name: str, client: TextToVideo, reference: Reference) -> None:
    request = REQUESTS[name]
    answer = client.generate_unary(**request, flow_shift=SHIFT, output_type="latents")
    assert all(steps > 0 for steps in answer.metadata["steps"].values()), "both experts must take part"
    assert relative(answer.latents, reference.latents(**request)) < LATENTS_TOLERANCE
    frames = client.generate_unary(**request, flow_shift=SHIFT, output_type="frames").frames
    expected = reference.frames(**request)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected.astype(int)).max() <= FRAMES_TOLERANCE


def test_exchanged_experts_would_be_seen(client: TextToVideo, reference: Reference) -> None:
    request = REQUESTS["negative prompt"]
    latents = client.generate_unary(**request, flow_shift=SHIFT, output_type="latents").latents
    assert relative(latents, reference.latents(**request, exchanged=True)) > 10 * LATENTS_TOLERANCE


def test_one_guidance_scale_for_both_experts_would_be_seen(client: TextToVideo, reference: Reference) -> None:
    request = REQUESTS["negative prompt"]
    latents = client.generate_unary(**request, flow_shift=SHIFT, output_type="latents").latents
    for scale in (request["guidance_scale"], request["guidance_scale_2"]):
        same = {**request, "guidance_scale": scale, "guidance_scale_2": scale}
        assert relative(latents, reference.latents(**same)) > 10 * LATENTS_TOLERANCE


def test_the_timesteps_are_wans_own(client: TextToVideo) -> None:
    """The official sampler's table for shift 12 and 40 steps; diffusers' own default ends 496, 391, 242."""
    metadata = client.generate_unary(
        "x", num_frames=1, height=16, width=16, flow_shift=SHIFT, num_inference_steps=40
    ).metadata
    timesteps = metadata["timesteps"]
    assert timesteps[:3] == [999, 997, 995]
    assert timesteps[24:28] == [888, 877, 865, 852]
    assert timesteps[-3:] == [492, 386, 235]
    assert metadata["steps"] == {"high_noise_expert": 26, "low_noise_expert": 14}


def test_four_steps_of_euler_are_those_of_diffusers_own_scheduler(client: TextToVideo, checkpoint: Path) -> None:
    """Its levels are set here: its defaults at shift 5 give other timesteps than experts were distilled at."""
    sigmas = [1.0, 0.9375, 5 / 6, 0.625]
    reference = Reference(checkpoint)
    scheduler = reference.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    original = scheduler.set_timesteps
    scheduler.set_timesteps = lambda steps, device=None: original(sigmas=sigmas, device=device)
    request = {**REQUESTS["negative prompt"], "num_inference_steps": 4, "guidance_scale": 1.0}
    answer = client.generate_unary(**request, solver="euler", flow_shift=5.0, output_type="latents")
    assert relative(answer.latents, reference.latents(**request)) < LATENTS_TOLERANCE
    assert answer.metadata["timesteps"] == pytest.approx([1000.0, 937.5, 833.3333, 625.0])
    assert answer.metadata["steps"] == {"high_noise_expert": 2, "low_noise_expert": 2}
    assert answer.metadata["passes"] == [1, 1, 1, 1] and answer.metadata["negative_prompt_ignored"]
