"""Dimensions of the measurements in `benchmarks.gpu.run`: of an expert, of the VAE and of clips.

The rehearsal makes the same measurements at dimensions that a CPU computes in seconds.
"""

from dataclasses import dataclass

from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import LatentGrid, VideoShape

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)


@dataclass(frozen=True)
class ExpertDims:
    """Widths of an expert. `layers` is the number of layers of the whole model, even if fewer are measured."""

    heads: int
    head_dim: int
    ffn_dim: int
    layers: int
    text_length: int
    text_dim: int

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.heads * self.head_dim

    @property
    def block_parameters(self) -> int:
        """Weights of one block's linear layers: self-attention, cross-attention, feed-forward."""
        return 8 * self.dim**2 + 2 * self.dim * self.ffn_dim


@dataclass(frozen=True)
class ExpertFlops:
    """Floating-point operations of one forward pass. A multiplication and an addition count as two."""

    attention: int
    linear: int
    cross_attention: int

    @property
    def total(self) -> int:
        """Sum of all operations."""
        return self.attention + self.linear + self.cross_attention


def attention_flops(dims: ExpertDims, tokens: int) -> int:
    """Count the FLOPs of one self-attention: scores and weighted sum, each N x N x D multiply-adds."""
    return 4 * tokens**2 * dims.dim


def expert_flops(dims: ExpertDims, tokens: int) -> ExpertFlops:
    """Count the FLOPs of a forward pass of all layers.

    A layer's linear layers are four projections of self-attention and two of cross-attention on the clip's tokens, two
    of cross-attention on the prompt's tokens, and two of the feed-forward. Embeddings, norms and rotary embeddings are
    less than a thousandth and not counted.
    """
    linear = 12 * tokens * dims.dim**2 + 4 * tokens * dims.dim * dims.ffn_dim + 4 * dims.text_length * dims.dim**2
    cross = 4 * dims.text_length * tokens * dims.dim
    return ExpertFlops(attention_flops(dims, tokens) * dims.layers, linear * dims.layers, cross * dims.layers)


@dataclass(frozen=True)
class Scale:
    """Dimensions and settings of one set of measurements.

    Attributes:
        device: `cuda:0` or `cpu`.
        dims: widths of the expert.
        sizes: clip sizes.
        vae_base_dim: the VAE's `base_dim`.
        most_blocks: largest number of blocks of a measured expert. It is also measured with about a quarter of them,
            and the time of all layers is extrapolated linearly.
        matrix: rows, inner size and columns of the products for the matrix rate.
        repeats: timed runs after a warm-up; the median counts.
        steps: denoising steps of a generation through Triton.
        probe_mib: sizes of tensors sent between processes, from small to larger than Triton's default pool.
        pool_bytes: size of the large CUDA memory pool, compared with Triton's default.
        slow_load_s: artificial duration of an expert's load.
        start_limit_s: limit for a server to become ready.
    """

    device: str
    dims: ExpertDims
    sizes: tuple[VideoShape, ...]
    vae_base_dim: int
    most_blocks: int
    matrix: tuple[tuple[int, int, int], ...]
    repeats: int
    steps: int
    probe_mib: tuple[float, ...]
    pool_bytes: int
    slow_load_s: float
    start_limit_s: float

    def tokens(self, size: VideoShape) -> int:
        """Return the number of tokens of a clip."""
        return GRID.tokens(size)

    def facts(self) -> ModelFacts:
        """Return the facts of a checkpoint with these dimensions, as far as an export needs them."""
        return ModelFacts(GRID, (0.0,) * 16, (1.0,) * 16, 0.875, 1000, {}, self.dims.text_length, self.dims.text_dim)


A14B = ExpertDims(heads=40, head_dim=128, ffn_dim=13824, layers=40, text_length=512, text_dim=4096)
SMALL = ExpertDims(heads=2, head_dim=64, ffn_dim=256, layers=40, text_length=8, text_dim=32)
SIZES = (VideoShape(81, 480, 832), VideoShape(81, 720, 1280))


def full_scale(device: str = "cuda:0") -> Scale:
    """Return the scale of Wan2.2-T2V-A14B at two of its trained sizes."""
    products = ((8192, 8192, 8192), *((GRID.tokens(size), A14B.dim, A14B.ffn_dim) for size in SIZES))
    return Scale(
        device,
        A14B,
        SIZES,
        vae_base_dim=96,
        most_blocks=8,
        matrix=products,
        repeats=5,
        steps=10,
        probe_mib=(1, 16, 48, 256, 1024),
        pool_bytes=12 * 2**30,
        slow_load_s=45,
        start_limit_s=90,
    )


def rehearsal_scale(device: str = "cpu") -> Scale:
    """Return a scale with small dimensions, for a CPU."""
    sizes = (VideoShape(5, 32, 48), VideoShape(9, 64, 32))
    products = ((64, 64, 64), *((GRID.tokens(size), SMALL.dim, SMALL.ffn_dim) for size in sizes))
    return Scale(
        device,
        SMALL,
        sizes,
        vae_base_dim=4,
        most_blocks=4,
        matrix=products,
        repeats=2,
        steps=2,
        probe_mib=(0.25, 1),
        pool_bytes=128 * 2**20,
        slow_load_s=2,
        start_limit_s=300,
    )
