"""VAE passes over a whole clip for training, with the results of diffusers' chunked passes, but faster.

`AutoencoderKLWan` processes a clip in chunks and caches the last frames of each convolution's input. Without the cache
it skips temporal resampling, which is therefore implemented here. All other layers are the module's own.
"""

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from torch import Tensor, nn


def encode_whole(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a clip (B, 3, 4n+1, H, W) in [-1, 1] to mean and log-variance, each (B, 16, n+1, H/8, W/8)."""
    encoder = vae.encoder
    hidden = encoder.conv_in(clip)
    for block in encoder.down_blocks:
        hidden = _downsample(block, hidden) if isinstance(block, WanResample) else block(hidden)
    hidden = encoder.mid_block(hidden)
    hidden = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(hidden)))
    mean, log_variance = vae.quant_conv(hidden).chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode_whole(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents (B, 16, n+1, h, w) to a clip (B, 3, 4n+1, 8h, 8w).

    The clip is not clamped, since a clamp would stop the gradient.
    """
    decoder = vae.decoder
    hidden = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            hidden = resnet(hidden)
        if block.upsamplers is not None:
            hidden = _upsample(block.upsamplers[0], hidden)
    clip: Tensor = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(hidden)))
    return clip


def _downsample(resample: WanResample, hidden: Tensor) -> Tensor:
    """Halve height and width and, for a `downsample3d` block, time. The first frame stays single."""
    hidden = _by_frame(resample.resample, hidden)
    if resample.mode != "downsample3d" or hidden.shape[2] == 1:
        return hidden
    return torch.cat([hidden[:, :, :1], resample.time_conv(hidden)], dim=2)


def _upsample(resample: WanResample, hidden: Tensor) -> Tensor:
    """Double height and width and, for an `upsample3d` block, time, with the first frame excluded from the latter."""
    if resample.mode == "upsample3d" and hidden.shape[2] > 1:
        first, later = hidden[:, :, :1], hidden[:, :, 1:]
        pairs = resample.time_conv(later).unflatten(1, (2, -1))  # (B, 2, C, T, H, W)
        later = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # (B, C, 2T, H, W)
        hidden = torch.cat([first, later], dim=2)
    return _by_frame(resample.resample, hidden)


def _by_frame(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Run a 2-D layer on each frame of (B, C, T, H, W)."""
    frames: Tensor = layer(hidden.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (hidden.shape[0], -1)).transpose(1, 2)
