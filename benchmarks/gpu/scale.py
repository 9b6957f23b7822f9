"""What `benchmarks.gpu.run` measures on: the dimensions of one expert and its work, and the sizes of clips.

The rehearsal is the same measurements at dimensions that a CPU does in seconds.
"""

from dataclasses import dataclass

from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import LatentGrid, VideoShape

GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)


@dataclass(frozen=True)
class ExpertDims:
    """Widths of an expert. `layers` is what the whole model has, whatever part of it is measured."""

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
    """Floating-point operations of one forward pass, a multiply and an add counted as two."""

    attention: int
    linear: int
    cross_attention: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.attention + self.linear + self.cross_attention


def attention_flops(dims: ExpertDims, tokens: int) -> int:
    """One self-attention: scores and weighted sum, each N x N x D."""
    return 4 * tokens**2 * dims.dim


def expert_flops(dims: ExpertDims, tokens: int) -> ExpertFlops:
    """A forward pass of all layers.

    A layer's linears are four projections of self-attention and two of cross-attention on the clip's tokens, two of
    cross-attention on the prompt's tokens, and the two of the feed-forward. Embeddings, norms and rotations, less than
    a thousandth, are left out.
    """
    linear = 12 * tokens * dims.dim**2 + 4 * tokens * dims.dim * dims.ffn_dim + 4 * dims.text_length * dims.dim**2
    cross = 4 * dims.text_length * tokens * dims.dim
    return ExpertFlops(attention_flops(dims, tokens) * dims.layers, linear * dims.layers, cross * dims.layers)


@dataclass(frozen=True)
class Scale:
    """One set of measurements.

    Attributes:
        device: `cuda:0` or `cpu`.
        dims: of the expert.
        sizes: of the clips.
        vae_base_dim: the VAE's `base_dim`.
        most_blocks: an expert is measured with at most so many blocks, and with about a quarter; the rest is a line
            through the two.
        matrix: rows, inner size and columns of the products that give the matrix rate.
        repeats: timed runs, after one that is not; the median counts.
        steps: denoising steps of a generation through Triton.
        probe_mib: sizes of the tensors that go from process to process, from small to larger than Triton's own pool.
        pool_bytes: the large memory pool that is set against Triton's own.
        slow_load_s: how long an expert's load is made to take.
        start_limit_s: how long a server may take to be ready.
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
        """Tokens of a clip."""
        return GRID.tokens(size)

    def facts(self) -> ModelFacts:
        """Facts of a checkpoint with these dimensions, as far as an export needs them."""
        return ModelFacts(GRID, (0.0,) * 16, (1.0,) * 16, 0.875, 1000, {}, self.dims.text_length, self.dims.text_dim)


A14B = ExpertDims(heads=40, head_dim=128, ffn_dim=13824, layers=40, text_length=512, text_dim=4096)
SMALL = ExpertDims(heads=2, head_dim=64, ffn_dim=256, layers=40, text_length=8, text_dim=32)
SIZES = (VideoShape(81, 480, 832), VideoShape(81, 720, 1280))


def full_scale(device: str = "cuda:0") -> Scale:
    """Wan2.2-T2V-A14B at its two trained sizes."""
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
    """The same at small dimensions."""
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
