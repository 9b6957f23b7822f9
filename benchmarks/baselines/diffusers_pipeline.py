"""diffusers' own pipeline with the server's defaults, timesteps and starting noise: the baseline of the benchmarks."""

from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray

from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.mp4 import mp4_from_frames
from wan_t2v.solvers.noise_levels import official_sigmas


class Diffusers:
    """One pipeline, for one caller at a time, since its scheduler holds the state of the running generation.

    `checkpoint` is a diffusers folder. `exported` is the folder of its exported graphs, from which the serving defaults
    are read if `defaults` is None.
    """

    def __init__(self, checkpoint: Path, exported: Path, *, defaults: ServingDefaults | None = None) -> None:
        self._pipeline = WanPipeline.from_pretrained(checkpoint, local_files_only=True)
        self._pipeline.set_progress_bar_config(disable=True)
        self._defaults = defaults or ServingDefaults.read(exported)
        self._text_length = ModelFacts.read(exported).text_length
        scheduler = self._pipeline.scheduler
        scheduler.register_to_config(flow_shift=self._defaults.flow_shift)
        own = scheduler.set_timesteps
        scheduler.set_timesteps = lambda steps, device=None: own(sigmas=official_sigmas(steps), device=device)

    def generate(self, prompt: str, *, seed: int, steps: int | None = None) -> bytes:
        """Generate one MP4."""
        return mp4_from_frames(self.frames(prompt, seed=seed, steps=steps), fps=self._defaults.fps)

    def frames(self, prompt: str, *, seed: int, steps: int | None = None) -> NDArray[np.uint8]:
        """Generate one video as RGB frames (T, H, W, 3)."""
        given = self._defaults
        with torch.inference_mode():
            video = self._pipeline(
                prompt,
                negative_prompt=given.negative_prompt,
                height=given.height,
                width=given.width,
                num_frames=given.num_frames,
                num_inference_steps=steps or given.num_inference_steps,
                guidance_scale=given.guidance_scale,
                guidance_scale_2=given.guidance_scale_2,
                generator=torch.Generator().manual_seed(seed),
                max_sequence_length=self._text_length,
                output_type="np",
            ).frames[0]
        frames: NDArray[np.uint8] = (video * 255).round().astype(np.uint8)
        return frames
