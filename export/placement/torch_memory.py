"""GPU memory of graphs that run as torch programs in place of plans, in bytes.

One program serves all sizes. Its activations are counted once, for the largest size, since torch keeps freed memory.
"""

from export.placement.gpu_memory import GpuMemory, PlanMemory
from wan_t2v.contract import EXPERTS

# Ratio of torch's activations to a plan's: torch allocates every operator's result, cuDNN takes a workspace, and the
# allocator of torch keeps freed memory in fragments. Estimate. benchmarks/results/gpu-NVIDIA-H200-2026-11-28.json has
# 4.0 to 4.6 for the VAE (peak without weights and two cache sets), but its caches kept larger tensors alive, up to two
# more sets. The engine frees those now, so the ratio must be measured again.
TORCH_ACTIVATIONS = 2


def vae_in_torch(memory: GpuMemory) -> PlanMemory:
    """Memory of both VAE graphs in one process. `context` is counted once: they share torch's allocator."""
    peaks = [memory.vae_activations(latents, first=first) for latents in memory.latents for first in (True, False)]
    plans = memory.plans
    weights = plans["vae_decoder_first"].weights + plans["vae_decoder_next"].weights
    return PlanMemory(
        weights=weights // len(memory.latents),  # a plan has them once per size
        context=TORCH_ACTIVATIONS * max(peaks),
        bindings=0,
    )


def expert_in_torch(memory: GpuMemory) -> PlanMemory:
    """Memory of one expert in its process. Its inputs and its answer are Triton's, as a plan's bindings are."""
    plan = memory.plans[EXPERTS[0]]
    peak = max(memory.expert_activations(latents) for latents in memory.latents)
    return PlanMemory(weights=plan.weights, context=TORCH_ACTIVATIONS * peak, bindings=plan.bindings)
