"""The VAE's two graphs per size in FP32, TF32 and BF16: seconds, peak memory and differences of the frames."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.scale import GRID, Scale
from benchmarks.gpu.timing import Row, Skipped, attempt, median_seconds
from benchmarks.gpu.torch_parts import random_bf16
from wan_t2v.shapes import VideoShape


@dataclass(frozen=True)
class Arithmetic:
    """Arithmetic of the graphs: the type of all tensors, and whether FP32 products may use TF32."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


ARITHMETICS = (  # the first is the reference of the frames
    Arithmetic("fp32", torch.float32),
    Arithmetic("tf32", torch.float32, tf32=True),
    Arithmetic("bf16", torch.bfloat16),
)


def vae(scale: Scale) -> Iterator[Row]:
    """Yield rows per size, largest first, and arithmetic: the first latent frame, a later one, and the whole clip.

    The clip's time is computed from the two frames' times.
    """
    for size in sorted(scale.sizes, key=scale.tokens, reverse=True):
        reference: list[Tensor] = []  # the frames in FP32, on the CPU
        latents = random_bf16(scale, *GRID.latent_shape(size).tensor_shape)[:, :, :2]
        for arithmetic in ARITHMETICS:

            def measure(
                size: VideoShape = size,
                arithmetic: Arithmetic = arithmetic,
                latents: Tensor = latents,
                reference: list[Tensor] = reference,
            ) -> Row:
                with _rounding(arithmetic), torch.inference_mode():
                    return _measure(scale, size, arithmetic, latents, reference)

            yield from attempt({"size": str(size), "precision": arithmetic.name}, measure)


def _measure(scale: Scale, size: VideoShape, arithmetic: Arithmetic, latents: Tensor, reference: list[Tensor]) -> Row:
    first, later = (graph.to(scale.device, arithmetic.dtype) for graph in _vae_graphs(scale))
    rounded = latents.to(arithmetic.dtype)
    now, then = rounded[:, :, :1], rounded[:, :, 1:]
    start, *caches = first(now)
    frames = torch.cat([start, later(then, *caches)[0]], dim=2).float().cpu()
    if arithmetic is ARITHMETICS[0]:
        reference.append(frames)
    (first_s, first_flops), (next_s, next_flops) = (
        (median_seconds(work, scale.device, repeats=scale.repeats), _count_flops(work))
        for work in (lambda: first(now), lambda: later(then, *caches))
    )
    peak = _peak_of(lambda: later(then, *caches), scale)
    others = GRID.latent_shape(size).frames - 1
    return {
        "seconds_first": first_s,
        "seconds_next": next_s,
        "seconds": first_s + others * next_s,
        "flops": first_flops + others * next_flops,
        "weights_gib": sum(weight.nbytes for weight in later.parameters()) / 2**30,
        "caches_gib": sum(cache.nbytes for cache in caches) / 2**30,
        "peak_gib": peak / 2**30,
        **(_differences(frames, reference[0]) if reference else {}),
    }


def _differences(frames: Tensor, reference: Tensor) -> Row:
    """Compare frames in [-1, 1] with those in FP32."""
    difference = (frames - reference).abs()
    return {
        "largest_difference": float(difference.max()),
        "relative_difference": float(difference.norm() / reference.norm()),
        "levels_of_255": float(difference.max() * 255 / 2),
    }


@contextlib.contextmanager
def _rounding(arithmetic: Arithmetic) -> Iterator[None]:
    """Set TF32 for convolutions and matrix products, and restore torch's settings afterwards."""
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arithmetic.tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _peak_of(work: Callable[[], object], scale: Scale) -> int:
    """Return torch's peak memory in bytes, weights and caches included. 0 on a CPU, where it is not counted."""
    if torch.device(scale.device).type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(scale.device)
    work()
    torch.cuda.synchronize(scale.device)
    return torch.cuda.max_memory_allocated(scale.device)


def _vae_graphs(scale: Scale) -> tuple[nn.Module, nn.Module]:
    try:
        from diffusers import AutoencoderKLWan

        from export.graphs.vae_decoder import VaeDecoderFirstGraph, VaeDecoderNextGraph
    except ImportError as error:
        raise Skipped(f"{error}: pip install diffusers transformers") from error
    torch.manual_seed(0)  # the same weights for each arithmetic
    module = AutoencoderKLWan(
        base_dim=scale.vae_base_dim,
        z_dim=GRID.channels,
        dim_mult=[1, 2, 4, 4],
        temperal_downsample=[False, True, True],
    ).eval()
    return VaeDecoderFirstGraph(module), VaeDecoderNextGraph(module)


def _count_flops(work: Callable[[], object]) -> int:
    """Count the FLOPs of matrix products and convolutions with torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
