"""Training of the experts and their shared text encoder with flow matching, on cached latents.

First one common expert learns all noise levels, since layout, colour and text mean the same at each. Then it is copied,
and each copy trains on the timesteps on its side of the boundary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from export.checkpoint.mini import BOUNDARY_RATIO
from training.contact_sheet import write_contact_sheet
from training.learn import flow_matching
from training.learn.sampling import Modules, SamplingSettings, generate_clips
from training.learn.text_embeddings import text_embeddings
from training.world.captions import caption
from training.world.clips import numbered_scene
from training.world.prompts import fixed_prompts
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.latents import diffusion_from_vae
from wan_t2v.shapes import LatentShape

COMMON_EXPERT = "common_expert"
TEXT_ENCODER = "text_encoder"
CAPTION_DROPOUT = 0.12
SHOWN_PROMPTS = 8
# Per expert: lowest and highest unshifted time to learn, and clips per training step.
_BOUNDARY = flow_matching.unshift(BOUNDARY_RATIO)
PARTS = {
    COMMON_EXPERT: (flow_matching.LOWEST_TIME, 1.0, 32),
    HIGH_NOISE_EXPERT: (_BOUNDARY, 1.0, 20),
    LOW_NOISE_EXPERT: (flow_matching.LOWEST_TIME, _BOUNDARY, 12),
}


@dataclass(frozen=True)
class TrainingData:
    """Normalised latents (N, 16, n+1, h, w) of the first N training clips of `seed`."""

    latents: Tensor
    seed: int

    @classmethod
    def normalise(cls, latents: Tensor, vae: AutoencoderKLWan, *, seed: int) -> "TrainingData":
        """Normalise latents on the VAE's own scale with the statistics in its config."""
        return cls(diffusion_from_vae(latents, vae.config.latents_mean, vae.config.latents_std), seed)


class ExpertStage:
    """Stage of flow matching. `module` has the text encoder, and either the common expert or both experts."""

    def __init__(
        self,
        module: nn.ModuleDict,
        data: TrainingData,
        *,
        tokenizer: PreTrainedTokenizerFast,
        vae: AutoencoderKLWan,
        device: torch.device,
    ) -> None:
        self.module, self.data, self.tokenizer = module.to(device), data, tokenizer
        self.vae, self.device = vae.to(device), device
        self.experts = {name: PARTS[name] for name in module if name != TEXT_ENCODER}

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]:
        """Compute the velocity's mean squared error of each expert, and their sum."""
        random = torch.Generator().manual_seed(self.data.seed * 1_000_003 + step)
        counts = [count for _, _, count in self.experts.values()]
        indices = torch.randint(len(self.data.latents), (sum(counts),), generator=random)
        texts = self._texts(indices.tolist(), np.random.default_rng((self.data.seed, step)))
        losses = {}
        for name, chosen, embeddings in zip(self.experts, indices.split(counts), texts.split(counts), strict=True):
            losses[name] = self._loss(name, self.data.latents[chosen], embeddings=embeddings, random=random)
        return {"loss": torch.stack(list(losses.values())).sum()} | {n: loss.detach() for n, loss in losses.items()}

    def show(self, path: Path) -> dict[str, float]:
        """Write one strip per held-out prompt, and return the number of strips."""
        prompts = fixed_prompts()[:SHOWN_PROMPTS]
        modules = modules_of(self.module, tokenizer=self.tokenizer, vae=self.vae)
        clips = generate_clips(
            modules,
            [prompt.text for prompt in prompts],
            seeds=range(len(prompts)),
            shape=LatentShape(*self.data.latents.shape[1:]),
            settings=SamplingSettings(steps=20),
        )
        write_contact_sheet(path, clips, columns=2)
        return {"shown": float(len(clips))}

    def _loss(self, name: str, clean: Tensor, *, embeddings: Tensor, random: torch.Generator) -> Tensor:
        lowest, highest, _ = self.experts[name]
        sigmas = flow_matching.draw_sigmas(len(clean), lowest=lowest, highest=highest, random=random).to(self.device)
        noise = torch.randn(clean.shape, generator=random).to(self.device)
        clean = clean.to(self.device)
        noisy, timesteps = flow_matching.add_noise(clean, noise, sigmas), sigmas * flow_matching.TRAIN_TIMESTEPS
        velocity = self.module[name](noisy, timesteps, embeddings, return_dict=False)[0]
        return (velocity.float() - flow_matching.target_velocity(clean, noise)).square().mean()

    def _texts(self, indices: list[int], random: np.random.Generator) -> Tensor:
        """Encode a newly drawn caption of each clip. A share CAPTION_DROPOUT of them is empty, for guidance."""
        scenes = [numbered_scene(self.data.seed, index, split="train")[0] for index in indices]
        captions = ["" if random.random() < CAPTION_DROPOUT else caption(scene, random) for scene in scenes]
        return text_embeddings(cast(UMT5EncoderModel, self.module[TEXT_ENCODER]), self.tokenizer, captions=captions)


def modules_of(trained: nn.ModuleDict, *, tokenizer: PreTrainedTokenizerFast, vae: AutoencoderKLWan) -> Modules:
    """Assemble the modules of a generation from the trained ones. A common expert serves as both experts."""
    names = (COMMON_EXPERT, COMMON_EXPERT) if COMMON_EXPERT in trained else (HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT)
    high, low = (cast(WanTransformer3DModel, trained[name]) for name in names)
    return Modules(tokenizer, cast(UMT5EncoderModel, trained[TEXT_ENCODER]), high, low, vae)
