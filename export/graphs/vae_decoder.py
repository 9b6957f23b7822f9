"""Export form of the causal VAE decoder as two graphs: one from the first latent frame on, one for later ones.

diffusers decodes one latent frame at a time and caches, per causal convolution, the last two frames of its input. In
the graphs these caches are inputs and outputs. Causal padding is zeros, so a missing cache equals a cache of zeros. The
first latent frame differs only in that it skips both temporal upsamplers: it gives 1 frame, and each later one gives 4.
To the upsamplers it counts as zeros, since diffusers' later frames do not see it there either.
"""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    WanUpBlock,
)
from torch import Tensor, nn
from torch.nn import functional

CACHED_FRAMES = 2  # a three-tap causal convolution looks back two frames


class FirstMemory:
    """Causal history before the first latent frame: zeros. `kept` collects the caches for the next call."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def extend(self, x: Tensor) -> Tensor:
        """Prepend two frames of zeros to x (B, C, T, H, W), and cache the last two frames for the next call."""
        extended = functional.pad(x, (0, 0, 0, 0, CACHED_FRAMES, 0))
        self.kept.append(extended[:, :, -CACHED_FRAMES:])
        return extended


class NextMemory:
    """Causal history from caches (B, C, 2, H, W), in the order of the decoder's convolutions."""

    def __init__(self, caches: Sequence[Tensor]) -> None:
        self._caches = iter(caches)
        self.kept: list[Tensor] = []

    def extend(self, x: Tensor) -> Tensor:
        """Prepend the two cached frames to x (B, C, T, H, W), and cache the last two frames for the next call."""
        extended = torch.cat([next(self._caches), x], dim=2)
        self.kept.append(extended[:, :, -CACHED_FRAMES:])
        return extended


_Memory = FirstMemory | NextMemory


class _VaeDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        if vae.config.is_residual or vae.config.patch_size is not None:
            raise ValueError(
                "This VAE is the residual one of Wan2.2-TI2V-5B; Wan2.2-T2V-A14B uses the Wan2.1 VAE "
                "(is_residual false, patch_size null)."
            )
        self.decoder = vae.decoder
        self.post_quant_conv = vae.post_quant_conv

    def decode(self, latents: Tensor, memory: _Memory) -> Tensor:
        decoder = self.decoder
        x = functional.conv3d(latents, self.post_quant_conv.weight, self.post_quant_conv.bias)
        x = _causal_conv(decoder.conv_in, x, memory)
        x = _residual(decoder.mid_block.resnets[0], x, memory)
        for attention, resnet in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = _residual(resnet, _attention(attention, x), memory)
        for block in decoder.up_blocks:
            x = _up_block(block, x, memory)
        x = _causal_conv(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(x)), memory)
        return torch.clamp(x, -1.0, 1.0)


class VaeDecoderFirstGraph(_VaeDecoder):
    """`latents -> frames, cache_out_0, ...`.

    Shapes: latents (B, 16, K, h, w), K >= 1, to frames (B, 3, 4K - 3, 8h, 8w) in [-1, 1]; every cache (B, C, 2, H, W).
    """

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        memory = FirstMemory()
        frames = self.decode(latents, memory)
        return (frames, *memory.kept)


class VaeDecoderNextGraph(_VaeDecoder):
    """`latents, cache_in_0, ... -> frames, cache_out_0, ...`.

    Shapes: latents (B, 16, K, h, w), K >= 1, to frames (B, 3, 4K, 8h, 8w) in [-1, 1]; every cache (B, C, 2, H, W).
    """

    def forward(self, latents: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        memory = NextMemory(caches)
        frames = self.decode(latents, memory)
        return (frames, *memory.kept)


def _causal_conv(conv: WanCausalConv3d, x: Tensor, memory: _Memory) -> Tensor:
    width_px, _, height_px, _, past_frames, _ = conv._padding
    if past_frames:
        x = memory.extend(x)
    return functional.conv3d(x, conv.weight, conv.bias, padding=(0, height_px, width_px))


def _residual(block: WanResidualBlock, x: Tensor, memory: _Memory) -> Tensor:
    shortcut = x
    if isinstance(block.conv_shortcut, WanCausalConv3d):
        shortcut = _causal_conv(block.conv_shortcut, x, memory)
    x = _causal_conv(block.conv1, block.nonlinearity(block.norm1(x)), memory)
    x = _causal_conv(block.conv2, block.nonlinearity(block.norm2(x)), memory)
    return x + shortcut


def _attention(block: WanAttentionBlock, x: Tensor) -> Tensor:
    """Compute single-head self-attention over the pixels of each frame."""
    batch, channels, frames, height, width = x.shape
    flat = x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
    qkv = block.to_qkv(block.norm(flat)).reshape(batch * frames, 1, 3 * channels, height * width).transpose(2, 3)
    query, key, value = qkv.split(channels, dim=-1)
    # Matrix products, since TensorRT-RTX 1.7 refuses an Attention node here ("not supported by a dedicated kernel").
    weights = torch.softmax(torch.matmul(query * channels**-0.5, key.transpose(-1, -2)), dim=-1)
    attended = torch.matmul(weights, value).squeeze(1).transpose(1, 2)
    projected = block.proj(attended.reshape(batch * frames, channels, height, width))
    return x + projected.reshape(batch, frames, channels, height, width).permute(0, 2, 1, 3, 4)


def _up_block(block: WanUpBlock, x: Tensor, memory: _Memory) -> Tensor:
    for resnet in block.resnets:
        x = _residual(resnet, x, memory)
    return x if block.upsamplers is None else _upsampled(block.upsamplers[0], x, memory)


def _upsampled(resample: WanResample, x: Tensor, memory: _Memory) -> Tensor:
    if resample.mode == "upsample3d":
        twice = _twice_the_later_frames if isinstance(memory, FirstMemory) else _twice_the_frames
        x = twice(resample, x, memory)
    batch, channels, frames, height, width = x.shape
    flat = x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
    # diffusers uses nearest-exact. For a factor of two `nearest` is the same, and exports as Resize, not as Gather.
    flat = resample.resample[1](functional.interpolate(flat, scale_factor=2.0, mode="nearest"))
    return flat.reshape(batch, frames, flat.shape[1], height * 2, width * 2).permute(0, 2, 1, 3, 4)


def _twice_the_later_frames(resample: WanResample, x: Tensor, memory: _Memory) -> Tensor:
    """Double all frames but the first, T to 2T - 1.

    Where one frame is all, cutting it off would leave tensors of no size, which not every engine takes. So the first
    frame is replaced.
    """
    later = torch.where(_is_first(x), 0.0, x)
    doubled = _twice_the_frames(resample, later, memory)[:, :, 1:]
    return torch.where(_is_first(doubled), x[:, :, :1], doubled)


def _is_first(x: Tensor) -> Tensor:
    """Whether a frame of x (B, C, T, H, W) is the first, as a tensor (T, 1, 1)."""
    return (torch.arange(x.shape[2], device=x.device) == 0).reshape(-1, 1, 1)


def _twice_the_frames(resample: WanResample, x: Tensor, memory: _Memory) -> Tensor:
    """Double the frames: the time convolution makes two frames of each, which are interleaved, T to 2T."""
    batch, channels, frames, height, width = x.shape
    pairs = _causal_conv(resample.time_conv, x, memory).reshape(batch, 2, channels, frames, height, width)
    return pairs.permute(0, 2, 3, 1, 4, 5).reshape(batch, channels, 2 * frames, height, width)
