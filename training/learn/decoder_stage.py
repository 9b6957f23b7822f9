"""Further training of the VAE's decoder alone. The latents do not change, so the experts remain valid."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from training.learn.vae_stage import pixel_losses, show_reconstructions, vae_input
from training.learn.whole_clip import decode_whole
from training.world.clips import numbered_clip
from wan_t2v.shapes import VideoShape

BATCH = 2
LATENT_NOISE = 0.02  # share of a channel's standard deviation, since generated latents are not exact either


class DecoderStage:
    """Stage that trains reconstruction (L1 and L2 in [-1, 1]) of whole training clips from their cached latents."""

    def __init__(
        self, vae: AutoencoderKLWan, latents: Tensor, *, video: VideoShape, seed: int, device: torch.device
    ) -> None:
        self.vae, self.latents, self.video = vae.to(device).requires_grad_(False), latents, video
        self.seed, self.device = seed, device
        self.module = nn.ModuleDict({"post_quant_conv": self.vae.post_quant_conv, "decoder": self.vae.decoder})
        self.module.requires_grad_(True)
        self._spread = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]:
        """Compute the losses of a training step. Its number seeds the choice of clips."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        indices = torch.randint(len(self.latents), (BATCH,), generator=random)
        clean = self.latents[indices]
        noisy = clean + LATENT_NOISE * self._spread * torch.randn(clean.shape, generator=random)
        frames = [numbered_clip(self.seed, int(index), video=self.video).frames for index in indices]
        clips = vae_input(np.stack(frames)).to(self.device)
        decoded = decode_whole(self.vae, noisy.to(self.device)).float()
        l1, l2 = pixel_losses(decoded, clips)
        return {"loss": l1 + l2, "l1": l1.detach(), "l2": l2.detach()}

    def show(self, path: Path) -> dict[str, float]:
        """Write held-out clips beside their reconstructions, and return the mean PSNR in dB."""
        return show_reconstructions(self.vae, path, video=self.video, seed=self.seed, device=self.device)
