"""Export form of an expert: latents, timestep and text embeddings to the flow velocity.

Three parts of diffusers' module export badly and are replaced here, with the same results:
* rotary embeddings are written with strided assignment, which becomes ScatterND nodes;
* the exporter's constant folder recomputes the timestep frequencies, and half of the table is one ulp off torch's:
  6e-5 rad at timestep 1000;
* attention goes through a dispatcher. A plain scaled_dot_product_attention becomes ONNX `Attention` at opset 23, which
  TensorRT keeps fused; at 32,760 tokens the unfused scores would exceed its limit of 2^31 elements.
"""

import math
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from export.graphs.fp8_attention import attended_in_fp8

INPUTS = ("hidden_states", "timestep", "encoder_hidden_states")
OUTPUTS = ("velocity",)


class ExpertGraph(nn.Module):
    """`(hidden_states, timestep, encoder_hidden_states) -> velocity`.

    Shapes: hidden_states and velocity (B, 16, F, H, W) latents, H and W even; timestep (B, 1) float32;
    encoder_hidden_states (B, text_length, text_dim). The timestep has a second axis because a tensor of a batching
    Triton model needs an axis besides the batch.
    """

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer
        transformer.rope = _RotaryTables(transformer.rope)
        transformer.condition_embedder.timesteps_proj = _TimestepFrequencies(
            transformer.condition_embedder.timesteps_proj
        )
        for block in transformer.blocks:
            block.attn1.processor = _Attention()
            block.attn2.processor = _Attention()

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.transformer(hidden_states, timestep[:, 0], encoder_hidden_states, return_dict=False)[0]


class _Attention:
    """Replacement of diffusers' `WanAttnProcessor` for text-to-video, without dispatcher and strided writes."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(context)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(context).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = _rotated(query, rotary_emb), _rotated(key, rotary_emb)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, heads, tokens, head_dim)
        if scales := getattr(attn, "fp8_scales", None):
            attended = attended_in_fp8(query, key, value, scales)
        else:
            attended = functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](attended.transpose(1, 2).flatten(2, 3).type_as(query))


def _rotated(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the interleaved pairs of x (B, tokens, heads, head_dim) by tables (1, tokens, 1, head_dim / 2)."""
    cos, sin = tables
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


class _RotaryTables(nn.Module):
    """Cosines and sines (1, tokens, 1, head_dim / 2) of every token's position, joined from time, height and width.

    diffusers' tables have each value twice and every second one is read. These tables have each value once.
    """

    def __init__(self, rope: Any) -> None:
        super().__init__()
        self.patch_size = rope.patch_size
        widths = [rope.t_dim // 2, rope.h_dim // 2, rope.w_dim // 2]
        for name, table in (("cos", rope.freqs_cos[:, 0::2]), ("sin", rope.freqs_sin[:, 1::2])):
            for axis, part in zip("thw", table.split(widths, dim=1), strict=True):
                self.register_buffer(f"{name}_{axis}", part.contiguous(), persistent=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [size // patch for size, patch in zip(hidden_states.shape[2:], self.patch_size, strict=True)]
        return self._table("cos", sizes), self._table("sin", sizes)

    def _table(self, name: str, sizes: list[int]) -> Tensor:
        frames, height, width = sizes
        parts = (
            getattr(self, f"{name}_t")[:frames].view(frames, 1, 1, -1),
            getattr(self, f"{name}_h")[:height].view(1, height, 1, -1),
            getattr(self, f"{name}_w")[:width].view(1, 1, width, -1),
        )
        joined = torch.cat([part.expand(frames, height, width, -1) for part in parts], dim=-1)
        return joined.reshape(1, frames * height * width, 1, -1)


class _TimestepFrequencies(nn.Module):
    """Sinusoidal embedding of the timestep, from frequencies that torch computed (see the module's docstring)."""

    def __init__(self, timesteps: Any) -> None:
        super().__init__()
        if not timesteps.flip_sin_to_cos or timesteps.num_channels % 2:
            raise ValueError("expected Wan's timestep embedding: cosines first, an even number of channels")
        half = timesteps.num_channels // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - timesteps.downscale_freq_shift)
        self.scale = timesteps.scale
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(exponent)[None], persistent=False)

    def forward(self, timestep: Tensor) -> Tensor:
        angle = self.scale * (timestep[:, None].float() * self.frequencies)
        return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
