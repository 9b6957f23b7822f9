"""torch on the GPU: matrix rate, attention alone, one expert. Weights and inputs are random."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.scale import GRID, Scale, attention_flops, expert_flops
from benchmarks.gpu.timing import Row, Skipped, attempt, median_seconds, round_figure
from wan_t2v.shapes import VideoShape

BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
_ACTIVATIONS = 24  # BF16 hidden states that a pass holds at once, FP32 parts and feed-forward included. Estimate.


def matrix_rate(scale: Scale) -> Iterator[Row]:
    """Yield rows of BF16 matrix products. The highest FLOP rate is the reference of the other parts."""
    for rows, inner, columns in scale.matrix:

        def measure(shape: tuple[int, int, int] = (rows, inner, columns)) -> Row:
            rows, inner, columns = shape
            left, right = random_bf16(scale, rows, inner), random_bf16(scale, inner, columns)
            seconds = median_seconds(lambda: left @ right, scale.device, repeats=4 * scale.repeats)
            return {"seconds": seconds, "flops": 2 * rows * inner * columns}

        yield from attempt({"product": f"{rows}x{inner}x{columns}"}, measure)


def attention(scale: Scale) -> Iterator[Row]:
    """Yield rows of one layer's self-attention, per size and per torch kernel."""
    for size in scale.sizes:
        for backend in BACKENDS:

            def measure(size: VideoShape = size, backend: str = backend) -> Row:
                tokens = scale.tokens(size)
                query, key, value = (
                    random_bf16(scale, 1, scale.dims.heads, tokens, scale.dims.head_dim) for _ in range(3)
                )

                def attend() -> Tensor:
                    with sdpa_kernel(SDPBackend.__members__[backend]):
                        return functional.scaled_dot_product_attention(query, key, value)

                seconds = median_seconds(attend, scale.device, repeats=scale.repeats)
                return {"tokens": tokens, "seconds": seconds, "flops": attention_flops(scale.dims, tokens)}

            yield from attempt({"size": str(size), "kernel": backend}, measure)


def expert_eager(scale: Scale) -> Iterator[Row]:
    """Yield rows of an expert's forward pass in eager mode, in BF16 with diffusers' FP32 modules."""
    return _expert(scale, "eager")


def expert_compiled(scale: Scale) -> Iterator[Row]:
    """Yield the same with torch.compile on each block. All blocks share one compilation."""
    return _expert(scale, "compiled")


def _expert(scale: Scale, mode: str) -> Iterator[Row]:
    for size in scale.sizes:

        def measure(size: VideoShape = size) -> Row:
            many = blocks_that_fit(scale, size)
            counts = (max(1, many // 4), many)
            graph = expert_graph(scale, many)
            if mode == "compiled":
                for block in graph.transformer.blocks:
                    block.compile(dynamic=False)
            inputs = tuple(expert_inputs(scale, size).values())
            return extrapolate(scale, size, counts, lambda count: _pass_seconds(scale, graph, count, inputs))

        yield from attempt({"size": str(size), "mode": mode, "precision": "bf16"}, measure)


def extrapolate(scale: Scale, size: VideoShape, counts: tuple[int, int], seconds_of: Callable[[int], float]) -> Row:
    """Extrapolate the time of all layers linearly from two numbers of blocks. All blocks take the same time."""
    few, many = counts
    measured = {count: seconds_of(count) for count in counts}
    a_block = (measured[many] - measured[few]) / (many - few)
    about = {
        "tokens": scale.tokens(size),
        "blocks_measured": list(counts),
        "seconds_measured": [round_figure(seconds) for seconds in measured.values()],
        "layers": scale.dims.layers,
    }
    if a_block <= 0:  # noise, as with small dimensions on a busy machine: extrapolating would be meaningless
        return {**about, "not_extrapolated": "more blocks took no longer than fewer"}
    return {
        **about,
        "seconds_a_block": a_block,
        "seconds": measured[many] + a_block * (scale.dims.layers - many),
        "flops": expert_flops(scale.dims, scale.tokens(size)).total,
    }


def blocks_that_fit(scale: Scale, size: VideoShape) -> int:
    """Return how many blocks fit in free memory beside a pass's activations, from 2 to `most_blocks`.

    Raises Skipped if two do not fit.
    """
    if torch.device(scale.device).type != "cuda":
        return scale.most_blocks
    free, _ = torch.cuda.mem_get_info(scale.device)
    activations = _ACTIVATIONS * scale.tokens(size) * scale.dims.dim * 2
    fitting = int((0.9 * free - activations) // (2 * scale.dims.block_parameters))
    if fitting < 2:
        raise Skipped(f"{free / 2**30:.1f} GiB of GPU memory are free, which do not hold two blocks at {size}")
    return min(fitting, scale.most_blocks)


def expert_graph(scale: Scale, blocks: int) -> Any:
    """Return the export form of `expert_module` on the device. Raises Skipped."""
    return export_form(expert_module(scale, blocks, scale.device), scale)


def export_form(module: Any, scale: Scale) -> Any:
    """Return a module's export form on the device."""
    from export.graphs.expert import ExpertGraph

    return ExpertGraph(module).to(scale.device).eval()


def expert_module(scale: Scale, blocks: int, device: str) -> Any:
    """Create diffusers' module with `blocks` blocks and random weights, in BF16 except diffusers' FP32 modules.

    Raises Skipped if diffusers is not installed.
    """
    try:
        from diffusers import WanTransformer3DModel
    except ImportError as error:
        raise Skipped(f"{error}: pip install diffusers transformers") from error
    dims = scale.dims
    with torch.device(device), _create_in_bf16():
        module = WanTransformer3DModel(
            patch_size=(1, GRID.patch, GRID.patch),
            num_attention_heads=dims.heads,
            attention_head_dim=dims.head_dim,
            in_channels=GRID.channels,
            out_channels=GRID.channels,
            text_dim=dims.text_dim,
            freq_dim=256,
            ffn_dim=dims.ffn_dim,
            num_layers=blocks,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=1024,
        )
    for name, parameter in module.named_parameters():  # as from_pretrained(torch_dtype=bfloat16) keeps them
        if any(island in name for island in module._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    return module.eval().requires_grad_(False)


@contextlib.contextmanager
def _create_in_bf16() -> Iterator[None]:
    """Create weights in BF16 directly. Converting from FP32 would need more memory."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def expert_inputs(scale: Scale, size: VideoShape) -> dict[str, Tensor]:
    """Return the inputs of one call: random latents and text in BF16, timestep 875."""
    return {
        "hidden_states": random_bf16(scale, *GRID.latent_shape(size).tensor_shape),
        "timestep": torch.full((1, 1), 875.0, device=scale.device),
        "encoder_hidden_states": random_bf16(scale, 1, scale.dims.text_length, scale.dims.text_dim),
    }


def _pass_seconds(scale: Scale, graph: Any, blocks: int, inputs: tuple[Tensor, ...]) -> float:
    whole = graph.transformer.blocks
    graph.transformer.blocks = nn.ModuleList(list(whole)[:blocks])
    try:
        with torch.inference_mode():
            return median_seconds(lambda: graph(*inputs), scale.device, repeats=scale.repeats)
    finally:
        graph.transformer.blocks = whole


def random_bf16(scale: Scale, *shape: int) -> Tensor:
    """Draw normal numbers on the device. Zeros would compute faster than real data."""
    return torch.randn(*shape, device=scale.device, dtype=torch.bfloat16)
