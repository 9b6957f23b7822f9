"""GPU memory of each part of a deployment, in bytes.

Weights, bindings and caches follow from the architecture and the sizes. Execution contexts (a plan's activations) and
processes are estimates, since only a build or a run can measure them. The manifest of a built plan has the measured
size of its contexts, which replaces the estimate (measured_plans.py). Triton's memory pool is in cuda_pool.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from export.checkpoint.architecture import Architecture, Convolution
from export.errors import ExpectedError
from export.graphs.precision import (
    IN_PLANS,
    NOT_IN_PLANS,
    SUPPORTED,
    UNSUPPORTED,
    blocks_in_eight_bits,
    io_precision,
    needs_ranges,
)
from export.graphs.sizes import FRAMES
from wan_t2v.contract import UNARY
from wan_t2v.shapes import LatentGrid, LatentShape, VideoShape

MIB = 2**20
GIB = 2**30
FP32 = 4
CACHED_FRAMES = 2
TEXT_BATCH = 8  # prompts in one call of the text encoder: the largest batch of its plan's profile
INDEX_BYTES = 8

# A CUDA context with its loaded kernels, per process and per GPU that the process opens. Estimate.
PROCESS_BYTES = GIB
_REFUSED = UNSUPPORTED | NOT_IN_PLANS
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
VALUE_BYTES = {name: _BYTES[io_precision(name)] for name in SUPPORTED["experts"]}  # of an activation between layers


class VaeEngine(Enum):
    """Engine that runs the VAE, in order of preference. Each value is a choice of `--vae-engine`."""

    TRITON_PLANS = "triton"
    IN_PROCESS = "in-process"
    TORCH = "torch"

    @property
    def description(self) -> str:
        """Return where the VAE runs, to follow "VAE" in a report."""
        places = {
            VaeEngine.TRITON_PLANS: "as Triton plans",
            VaeEngine.IN_PROCESS: "in the process that decodes",
            VaeEngine.TORCH: "in torch in the process that decodes",
        }
        return places[self]

    @property
    def in_process(self) -> bool:
        """Whether the decoding process runs the VAE, and not Triton's TensorRT backend."""
        return self is not VaeEngine.TRITON_PLANS


class SettingsError(ExpectedError, ValueError):
    """A setting that cannot be deployed. The message says what is accepted."""


@dataclass(frozen=True)
class ServingProfile:
    """Clip sizes, precision per part and endpoints to serve. Each endpoint runs one clip at a time.

    `text_encoder_device` and `vae_engine` are the operator's choice. With None, placement chooses. `experts_in_torch`
    runs the experts as torch programs in place of plans.
    """

    sizes: tuple[VideoShape, ...]
    experts: str = "bf16"
    text_encoder: str = "bf16"
    vae: str = "fp32"
    endpoints: tuple[str, ...] = (UNARY,)
    text_encoder_device: str | None = None
    vae_engine: VaeEngine | None = None
    experts_in_torch: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError."""
        if not self.sizes:
            raise SettingsError("no size was named; name one at least, such as 720x1280x81")
        for part in ("experts", "text_encoder", "vae"):
            precision = getattr(self, part)
            if precision not in IN_PLANS[part]:
                reason = f" ({_REFUSED[part, precision]})" if (part, precision) in _REFUSED else ""
                accepted = ", ".join(IN_PLANS[part])
                name = part.replace("_", " ")
                raise SettingsError(f"precision of the {name} is {precision!r}{reason}, accepted: {accepted}")
        if self.experts_in_torch and needs_ranges(self.experts):
            raise SettingsError(
                f"precision of the experts is {self.experts!r}, which torch programs do not have, "
                "accepted with --experts-engine torch: bf16, fp16, fp32"
            )


@dataclass(frozen=True)
class PlanMemory:
    """Bytes of one plan on one GPU. `context` is an estimate unless `measured`."""

    weights: int
    context: int
    bindings: int
    measured: bool = False


@dataclass(frozen=True)
class GpuMemory:
    """Memory of every part of one serving profile. `measured` has the bytes of a built plan's contexts, by graph."""

    architecture: Architecture
    profile: ServingProfile
    measured: Mapping[str, int]

    @cached_property
    def latents(self) -> list[LatentShape]:
        """Latent shape of each size. Raises SettingsError for a size that the latent grid does not divide."""
        grid = self.architecture.grid
        for size in self.profile.sizes:
            check_size(size, grid)
        return [grid.latent_shape(size) for size in self.profile.sizes]

    @property
    def plans(self) -> dict[str, PlanMemory]:
        """Memory of each plan in Triton's TensorRT backend, with one instance and all sizes."""
        return {
            "text_encoder": self._measured_or("text_encoder", self._text_encoder()),
            "high_noise_expert": self._measured_or("high_noise_expert", self._expert()),
            "low_noise_expert": self._measured_or("low_noise_expert", self._expert()),
            "vae_decoder_first": self._measured_or("vae_decoder_first", self._vae(first=True)),
            "vae_decoder_next": self._measured_or("vae_decoder_next", self._vae(first=False)),
        }

    def _measured_or(self, graph: str, estimate: PlanMemory) -> PlanMemory:
        if graph not in self.measured:
            return estimate
        return PlanMemory(estimate.weights, self.measured[graph], estimate.bindings, measured=True)

    def _expert(self) -> PlanMemory:
        """Size an expert: one plan with a static profile and a context per size; bindings are for the largest size."""
        expert, text_length = self.architecture.expert, self.architecture.text_length
        value = VALUE_BYTES[self.profile.experts]
        kept = expert.fp32_parameters
        weights = (expert.parameters - kept) * value + kept * FP32
        blocks = len(blocks_in_eight_bits(self.profile.experts, expert.layers))
        weights -= blocks * expert.linear_parameters_of_a_block * (value - 1)
        text = text_length * expert.text_dim * value
        return PlanMemory(
            weights=weights,
            context=sum(self.expert_activations(latents) for latents in self.latents),
            bindings=max(2 * elements(latents) * value for latents in self.latents) + text + FP32,
        )

    def expert_activations(self, latents: LatentShape) -> int:
        """Estimate an expert's activations: the larger of a block's two peaks.

        Attention: six tensors of a token's width (residual, normed input, query, key, value, result) and two in FP32
        (query and key between norm and rotation). Feed-forward: residual, result, an FP32 norm, and the wide tensor
        before and after its activation function. Scores are not counted, since attention must stay fused.
        """
        expert = self.architecture.expert
        value = VALUE_BYTES[self.profile.experts]
        patch = expert.patch
        tokens = (latents.frames // patch[0]) * (latents.height // patch[1]) * (latents.width // patch[2])
        attention = tokens * expert.dim * (6 * value + 2 * FP32)
        feed_forward = tokens * (expert.dim * (2 * value + FP32) + 2 * expert.ffn_dim * value)
        return max(attention, feed_forward)

    def _text_encoder(self) -> PlanMemory:
        """Size the text encoder. Its context is an estimate of one attention.

        Counted are the residual and normed input in FP32, query, key, value and result, and the scores before and after
        the softmax. The scores are written to memory, since UMT5's position bias prevents fused attention.
        """
        encoder, length = self.architecture.text_encoder, self.architecture.text_length
        value = VALUE_BYTES[self.profile.text_encoder]
        tokens = TEXT_BATCH * length
        scores = tokens * length * encoder.heads
        return PlanMemory(
            weights=encoder.parameters * value,
            context=tokens * (2 * encoder.dim * FP32 + 4 * encoder.inner * value) + scores * (FP32 + value),
            bindings=tokens * (2 * INDEX_BYTES + encoder.dim * value),
        )

    def _vae(self, *, first: bool) -> PlanMemory:
        """Size a VAE graph: one static plan per size, each a model version with its own context and bindings."""
        value = VALUE_BYTES[self.profile.vae]
        frames_out = 1 if first else 2 ** sum(self.architecture.vae.upsamples_time)
        pixels = 4 ** len(self.architecture.vae.upsamples_time)
        sets = 1 if first else 2
        bindings = 0
        for latents in self.latents:
            area = latents.height * latents.width
            bindings += (latents.channels * area + 3 * frames_out * area * pixels) * value
            bindings += sets * self.cache_set(latents)
        return PlanMemory(
            weights=len(self.latents) * self.architecture.vae.decoder_parameters * value,
            context=sum(self.vae_activations(latents, first=first) for latents in self.latents),
            bindings=bindings,
        )

    def vae_activations(self, latents: LatentShape, *, first: bool) -> int:
        """Estimate a VAE graph's activations: the largest working set of any of its operators.

        A convolution holds the shortcut, its input with two cached frames, and its output. A spatial upsampling holds
        input, enlarged input and output. Attention holds the scores of all pairs of pixels of a latent frame, twice.
        """
        vae = self.architecture.vae
        value = VALUE_BYTES[self.profile.vae]
        area = latents.height * latents.width

        def values(c: Convolution) -> int:
            frames = 1 if first else c.time_scale
            return area * c.scale**2 * ((frames + CACHED_FRAMES) * c.channels + 2 * frames * c.out_channels)

        def upsampling(index: int, channels: int) -> int:
            frames: int = 1 if first else 2 ** sum(vae.upsamples_time[: index + 1])
            return area * (1 << 2 * index) * frames * (channels + 4 * channels + 2 * channels)

        stages = vae.stages()[: len(vae.upsamples_time)]
        peaks = [values(c) for c in vae.convolutions()]
        peaks += [upsampling(index, after) for index, (_, after) in enumerate(stages)]
        return max([*peaks, 2 * area * area]) * value

    def cache_set(self, latents: LatentShape) -> int:
        """Return the bytes of one clip's VAE caches: two frames of the input of each cached convolution."""
        area = latents.height * latents.width
        kept = (c for c in self.architecture.vae.convolutions() if c.cached)
        values = sum(c.channels * CACHED_FRAMES * area * c.scale**2 for c in kept)
        return values * VALUE_BYTES[self.profile.vae]

    @property
    def largest_cache_set(self) -> int:
        """Bytes of one clip's VAE caches at the largest size."""
        return max(self.cache_set(latents) for latents in self.latents)

    @property
    def frames_bytes(self) -> int:
        """Bytes of the largest clip as uint8 RGB frames, which are copied to the host at the end."""
        return max(size.frames * size.height * size.width * 3 for size in self.profile.sizes)

    @property
    def denoiser_working_set(self) -> int:
        """Estimate of the denoiser's tensors: sixteen of the latents' shape in FP32 (solver history too), and text."""
        latents = max(elements(latents) for latents in self.latents)
        text = self.architecture.text_length * self.architecture.expert.text_dim
        return 16 * latents * FP32 + 4 * text * FP32


def whole_mib(size: int) -> int:
    """Round a size in bytes up to MiB."""
    return -(-size // MIB) * MIB


def elements(latents: LatentShape) -> int:
    """Return the number of elements of a clip's latents."""
    return latents.channels * latents.frames * latents.height * latents.width


def check_size(size: VideoShape, grid: LatentGrid) -> None:
    """Refuse a size that the latent grid does not divide. Raises SettingsError with the nearest ones."""
    multiple, stride = grid.size_multiple_px, grid.time_stride
    for name, pixels in (("height", size.height), ("width", size.width)):
        if pixels < multiple or pixels % multiple:
            below = max(multiple, pixels // multiple * multiple)
            near = " or ".join(str(n) for n in sorted({below, -(-pixels // multiple) * multiple} - {0}))
            raise SettingsError(f"size {size}: {name} {pixels} is not a multiple of {multiple}; nearest: {near}")
    if size.frames < 1 or (size.frames - 1) % stride:
        below = max(1, (size.frames - 1) // stride * stride + 1)
        raise SettingsError(
            f"size {size}: {size.frames} frames are not {stride}k+1; nearest: {below} or {below + stride}"
        )


def parse_size(text: str) -> VideoShape:
    """Parse `720x1280` (81 frames) or `720x1280x81`: height, width, frames. Raises SettingsError."""
    try:
        return VideoShape.parse(text, frames=FRAMES)
    except ValueError as error:
        raise SettingsError(f"size {error}") from None


def unique_sizes(texts: Sequence[str]) -> tuple[VideoShape, ...]:
    """Parse sizes and drop repeated ones, in order. Raises SettingsError."""
    return tuple(dict.fromkeys(parse_size(text) for text in texts))
