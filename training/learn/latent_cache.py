"""Cache of the training clips' latents, such as (N, 16, 5, 8, 8), in parts, so that an interrupted run resumes."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from tqdm import tqdm

from export.atomic import write_atomically
from training.learn.device import autocast
from training.learn.vae_stage import vae_input
from training.learn.whole_clip import encode_whole
from training.world.clips import numbered_clip
from wan_t2v.shapes import VideoShape

PART_CLIPS = 64
ENCODED_TOGETHER = 4
_OF_THE_ENCODER = ("encoder.", "quant_conv.")
_DIGITS = 12  # of the encoder's hash, in the name of its folder of latents


def encode_once(vae: AutoencoderKLWan, folder: Path, *, clips: int, video: VideoShape, seed: int) -> Tensor:
    """Encode the first `clips` training clips to posterior means (N, 16, n+1, h, w) float32, on the VAE's scale.

    Parts in `folder` that this encoder made before are reused.
    """
    folder, parts = folder / encoder_sha256(vae)[:_DIGITS], []
    for first in tqdm(range(0, clips, PART_CLIPS), desc="latents", unit="part"):
        path = folder / f"{video}-{seed}-{first:06d}.pt"
        if not path.exists():
            encoded = _encode(vae, range(first, first + PART_CLIPS), video=video, seed=seed)
            with write_atomically(path) as partial:
                torch.save(encoded, partial)
        parts.append(torch.load(path, weights_only=True))
    return torch.cat(parts)[:clips].float()


def encoder_sha256(vae: AutoencoderKLWan) -> str:
    """Hash the weights that latents depend on. The decoder may be trained on without a change of the latents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(_OF_THE_ENCODER):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def channel_statistics(latents: Tensor) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel of latents (N, C, T, H, W)."""
    by_channel = latents.transpose(0, 1).flatten(1)
    return by_channel.mean(dim=1).tolist(), by_channel.std(dim=1).tolist()


@torch.no_grad()
def _encode(vae: AutoencoderKLWan, indices: range, *, video: VideoShape, seed: int) -> Tensor:
    encoded = []
    for start in indices[::ENCODED_TOGETHER]:
        frames = [numbered_clip(seed, start + i, video=video).frames for i in range(ENCODED_TOGETHER)]
        clips = vae_input(np.stack(frames)).to(vae.device, memory_format=torch.channels_last_3d)
        with autocast(vae.device):
            encoded.append(encode_whole(vae, clips)[0].float().cpu())
    return torch.cat(encoded)
