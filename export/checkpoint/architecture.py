"""Layer sizes of a Wan2.2 checkpoint, and the parameter counts that follow from them.

`component_configs.py` reads them from config files. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wan_t2v.shapes import LatentGrid

WANS_TEXT_LENGTH = 512  # WanPipeline pads prompts to it; no config file has it


@dataclass(frozen=True)
class ExpertArchitecture:
    """One expert, diffusers' `WanTransformer3DModel`.

    Attributes:
        dim: width of a token.
        patch: latents per token in frames, height and width.
    """

    dim: int
    ffn_dim: int
    layers: int
    text_dim: int
    frequency_dim: int
    channels: int
    patch: tuple[int, int, int]

    @property
    def linear_parameters_of_a_block(self) -> int:
        """Count the weights of a block's ten linear layers, without biases. FP8 and INT8 store these in one byte."""
        return 8 * self.dim**2 + 2 * self.dim * self.ffn_dim

    @property
    def block_parameters(self) -> int:
        """Count the parameters of a block: two attentions with RMS norms, feed-forward, one affine norm, modulation."""
        biases = 8 * self.dim + self.ffn_dim + self.dim
        return self.linear_parameters_of_a_block + biases + 4 * self.dim + 2 * self.dim + 6 * self.dim

    @property
    def parameters(self) -> int:
        """Count the parameters of one expert: 14,288,491,584 for A14B."""
        patch_values = self.channels * self.patch[0] * self.patch[1] * self.patch[2]
        text = _linear(self.text_dim, self.dim) + _linear(self.dim, self.dim)
        condition = self._time_embedder + _linear(self.dim, 6 * self.dim) + text
        ends = _linear(patch_values, self.dim) + _linear(self.dim, patch_values) + 2 * self.dim
        return self.layers * self.block_parameters + condition + ends

    @property
    def fp32_parameters(self) -> int:
        """Count the parameters that are FP32 at every precision: time embedder, modulation and affine norms.

        Source: diffusers' `WanTransformer3DModel._keep_in_fp32_modules`.
        """
        return self._time_embedder + self.layers * (6 + 2) * self.dim + 2 * self.dim

    @property
    def _time_embedder(self) -> int:
        return _linear(self.frequency_dim, self.dim) + _linear(self.dim, self.dim)


@dataclass(frozen=True)
class TextEncoderArchitecture:
    """UMT5 encoder. `inner` is the width of all heads together."""

    dim: int
    inner: int
    heads: int
    ffn_dim: int
    layers: int
    vocabulary: int
    position_buckets: int

    @property
    def parameters(self) -> int:
        """Count the parameters: 5,680,910,336 for A14B.

        Every layer of UMT5 has its own position bias, and its feed-forward is gated.
        """
        attention = 4 * self.dim * self.inner + self.position_buckets * self.heads
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.vocabulary * self.dim + self.layers * layer + self.dim


@dataclass(frozen=True)
class Convolution:
    """3D convolution of the VAE decoder.

    Attributes:
        taps: weights per pair of channels (27 for 3x3x3).
        scale: pixels at its input per latent, in height and in width.
        time_scale: frames at its input per latent frame after the first.
        cached: whether it reads the two frames before, so that they are cached between calls.
    """

    channels: int
    out_channels: int
    taps: int
    scale: int
    time_scale: int
    cached: bool = True

    @property
    def parameters(self) -> int:
        """Count weights and bias."""
        return self.channels * self.out_channels * self.taps + self.out_channels


@dataclass(frozen=True)
class VaeArchitecture:
    """Decoder of the Wan2.1 VAE, diffusers' `AutoencoderKLWan`. `upsamples_time` is in the decoder's order."""

    base_dim: int
    latent_channels: int
    multipliers: tuple[int, ...]
    residual_blocks: int
    upsamples_time: tuple[bool, ...]

    @property
    def widest(self) -> int:
        """Channels in the middle of the decoder."""
        return self.base_dim * self.multipliers[-1]

    def stages(self) -> list[tuple[int, int]]:
        """Return the channels into and out of each up block. The upsampler before a block has halved its input."""
        widths = [self.base_dim * multiplier for multiplier in (self.multipliers[-1], *self.multipliers[::-1])]
        return [
            (before // 2 if index else before, after)
            for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
        ]

    def convolutions(self) -> Iterator[Convolution]:
        """Yield the decoder's convolutions in the order in which they run, which is the order of the caches."""
        yield Convolution(self.latent_channels, self.widest, 27, 1, 1)
        for _ in range(2):
            yield from _residual(self.widest, self.widest, scale=1, time_scale=1)
        scale = time_scale = 1
        for index, (before, after) in enumerate(self.stages()):
            yield from _residual(before, after, scale=scale, time_scale=time_scale)
            for _ in range(self.residual_blocks):
                yield from _residual(after, after, scale=scale, time_scale=time_scale)
            if index < len(self.upsamples_time):
                if self.upsamples_time[index]:
                    yield Convolution(after, 2 * after, 3, scale, time_scale)
                    time_scale *= 2
                scale *= 2
        yield Convolution(self.base_dim * self.multipliers[0], 3, 27, scale, time_scale)

    @property
    def decoder_parameters(self) -> int:
        """Count the parameters of the decoder and of the 1x1x1 convolution before it: 73,295,603 for A14B."""
        convolutions = list(self.convolutions())
        norms = sum(c.channels for c in convolutions[1:] if c.cached and c.taps == 27)  # before each but the first
        attention = self.widest + 3 * self.widest**2 + 3 * self.widest + self.widest**2 + self.widest
        spatial = sum(9 * c * (c // 2) + c // 2 for _, c in self.stages()[: len(self.upsamples_time)])
        before = self.latent_channels**2 + self.latent_channels
        return sum(c.parameters for c in convolutions) + norms + attention + spatial + before


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _residual(before: int, after: int, *, scale: int, time_scale: int) -> Iterator[Convolution]:
    if before != after:
        yield Convolution(before, after, 1, scale, time_scale, cached=False)
    yield Convolution(before, after, 27, scale, time_scale)
    yield Convolution(after, after, 27, scale, time_scale)


@dataclass(frozen=True)
class Architecture:
    """Layer sizes of a checkpoint's three networks. Both experts have the same."""

    expert: ExpertArchitecture
    text_encoder: TextEncoderArchitecture
    vae: VaeArchitecture
    text_length: int = WANS_TEXT_LENGTH

    @property
    def grid(self) -> LatentGrid:
        """Strides from pixels to latents and tokens, from the VAE's upsamplers and the expert's patch."""
        return LatentGrid(
            channels=self.vae.latent_channels,
            time_stride=2 ** sum(self.vae.upsamples_time),
            space_stride=2 ** len(self.vae.upsamples_time),
            patch=self.expert.patch[1],
        )


# transformer, text_encoder and vae of Wan-AI/Wan2.2-T2V-A14B-Diffusers
A14B = Architecture(
    ExpertArchitecture(
        dim=5120, ffn_dim=13824, layers=40, text_dim=4096, frequency_dim=256, channels=16, patch=(1, 2, 2)
    ),
    TextEncoderArchitecture(
        dim=4096, inner=4096, heads=64, ffn_dim=10240, layers=24, vocabulary=256384, position_buckets=32
    ),
    VaeArchitecture(
        base_dim=96,
        latent_channels=16,
        multipliers=(1, 2, 4, 4),
        residual_blocks=2,
        upsamples_time=(True, True, False),
    ),
)
