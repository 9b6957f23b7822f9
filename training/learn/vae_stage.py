"""Training of the VAE: reconstruction with a small KL weight, first on short crops, last on whole clips."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.contact_sheet import write_contact_sheet
from training.learn.whole_clip import decode_whole, encode_whole
from training.world.clips import numbered_clip
from training.world.render import Frames
from wan_t2v.shapes import VideoShape

KL_WEIGHT = 1e-4
# (end as a share of the training, clips per step, crop). Short crops first. Then narrow crops of full length, since the
# causal convolutions' state drifts beyond the length of training. Whole clips last.
PHASES = (
    (0.2, 4, VideoShape(5, 48, 48)),
    (0.75, 3, VideoShape(17, 32, 32)),
    (1.0, 1, VideoShape(17, 64, 64)),
)
CLIPS_A_STEP = max(count for _, count, _ in PHASES)
SHOWN_CLIPS = 4
USUAL_SPREAD = 0.3  # standard deviation of a clip of usual contrast, in [-1, 1]


class VaeStage:
    """Stage that trains reconstruction (L1 and L2 in [-1, 1]) plus KL, on new clips at every step."""

    def __init__(self, vae: AutoencoderKLWan, *, video: VideoShape, seed: int, device: torch.device) -> None:
        self.module, self.video, self.seed, self.device = vae.to(device), video, seed, device

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]:
        """Compute the losses of a training step. Its number also seeds the posterior's noise."""
        clips = self._batch(step, share_done)
        noise = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        mean, log_variance = encode_whole(self.module, clips)
        mean, log_variance = mean.float(), log_variance.float()
        drawn = torch.randn(mean.shape, generator=noise, device=self.device)
        reconstructed = decode_whole(self.module, mean + drawn * torch.exp(0.5 * log_variance)).float()
        l1, l2 = pixel_losses(reconstructed, clips)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()
        return {"loss": l1 + l2 + KL_WEIGHT * kl, "l1": l1.detach(), "l2": l2.detach(), "kl": kl.detach()}

    def show(self, path: Path) -> dict[str, float]:
        """Write held-out clips beside their reconstructions, and return the mean PSNR in dB."""
        return show_reconstructions(self.module, path, video=self.video, seed=self.seed, device=self.device)

    def _batch(self, step: int, share_done: float) -> Tensor:
        """Draw clips (B, 3, T, H, W) in [-1, 1] for the current phase."""
        count, crop = next((count, crop) for until, count, crop in PHASES if share_done <= until)
        random = np.random.default_rng((self.seed, step))
        first = step * CLIPS_A_STEP
        clips = [numbered_clip(self.seed, first + i, video=self.video).frames for i in range(count)]
        clips = [_crop(frames, crop, random=random) for frames in clips]
        return vae_input(np.stack(clips)).to(self.device, memory_format=torch.channels_last_3d)


def pixel_losses(decoded: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Compute L1 and L2 of clips (B, 3, T, H, W) in [-1, 1], with larger weights for clips of low contrast.

    Yellow on sand has a fifth of the contrast of red on black. Without weights the loss of its corners would be
    negligible, and the decoder would round them off.
    """
    spread = clips.std(dim=(2, 3, 4), keepdim=True).square().mean(dim=1, keepdim=True).sqrt()
    weights = (USUAL_SPREAD / spread.clamp(min=1e-3)).clamp(0.5, 3.0)
    error = decoded - clips
    return (weights * error.abs()).mean(), (weights * error).square().mean()


def vae_input(frames: Frames) -> Tensor:
    """Convert frames (B, T, H, W, 3) uint8 to the VAE's input (B, 3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def frames_from_vae(clips: Tensor) -> Frames:
    """Convert clips (B, 3, T, H, W) in [-1, 1] to frames (B, T, H, W, 3) uint8, clamped and rounded."""
    pixels = ((clips.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    frames: Frames = pixels.permute(0, 2, 3, 4, 1).cpu().numpy()
    return frames


def show_reconstructions(
    vae: AutoencoderKLWan, path: Path, *, video: VideoShape, seed: int, device: torch.device, count: int = SHOWN_CLIPS
) -> dict[str, float]:
    """Write held-out clips beside their reconstructions, and return the mean PSNR in dB."""
    clips = [numbered_clip(seed, i, video=video, split="held_out").frames for i in range(count)]
    decoded = [reconstruction(vae, clip, device=device) for clip in clips]
    write_contact_sheet(path, [frames for pair in zip(clips, decoded, strict=True) for frames in pair], columns=2)
    return {"held_out_psnr_db": float(np.mean([psnr_db(a, b) for a, b in zip(clips, decoded, strict=True)]))}


@torch.no_grad()
def reconstruction(vae: AutoencoderKLWan, frames: Frames, *, device: torch.device) -> Frames:
    """Encode and decode one clip (T, H, W, 3) at the posterior's mean."""
    mean, _ = encode_whole(vae, vae_input(frames[None]).to(device))
    return frames_from_vae(decode_whole(vae, mean))[0]


def psnr_db(a: Frames, b: Frames) -> float:
    """Compute the peak signal-to-noise ratio of two clips in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-10)))


def _crop(frames: Frames, crop: VideoShape, *, random: np.random.Generator) -> Frames:
    sizes = [min(have, want) for have, want in zip(frames.shape, crop, strict=False)]
    starts = [int(random.integers(have - size + 1)) for have, size in zip(frames.shape, sizes, strict=False)]
    return frames[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))]
