"""Device and precision of the training: a GPU if there is one, bf16 if the hardware supports it."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def compute_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context with bf16 matrix products and convolutions. Weights, norms and losses stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bf16(device))


def attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context with the fastest attention for training.

    On a CPU, torch's fused attention is slow: at 80 tokens its backward pass takes a third of a training step.
    """
    return contextlib.nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16 instructions. Without them a CPU is several times slower in bf16 than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()
