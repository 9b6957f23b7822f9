"""Where training runs and in which precision: a GPU if there is one, bf16 where the hardware multiplies it."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def compute_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bf16 for matrix products and convolutions; weights, norms, losses and the optimiser stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bf16(device))


def attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The fastest attention for a forward pass with gradient.

    With clips of 80 tokens a CPU spends a third of a step in the backward pass of its own fused attention.
    """
    return contextlib.nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has instructions for it; without them a CPU is several times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()
