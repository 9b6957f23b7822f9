"""Alternatives for GPUs on which both experts do not fit, in the order in which to consider them.

The order: text encoder on the CPU if the operator put it on a GPU, FP8, two GPUs, swapping experts, one endpoint alone.
INT8 is not listed: it needs as much memory as FP8 and is for GPUs without FP8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.graphs.precision import needs_ranges
from export.placement.gpu_memory import GpuMemory, ServingProfile
from export.placement.gpus import Gpu
from export.placement.layouts import Layout, Placement, Verdict
from export.placement.pick_layout import best_fit, best_of_each_layout, placements
from wan_t2v.contract import STREAM


@dataclass(frozen=True)
class Alternative:
    """A change of settings and the placement that it allows. `placement` is None if that does not fit either."""

    change: str
    placement: Placement | None


def find_alternatives(memory: GpuMemory, gpus: Sequence[Gpu]) -> list[Alternative]:
    """List the alternatives that apply; FP8, for instance, does not if it is in use already.

    The last one, if both endpoints are served, is the streaming endpoint alone.
    """
    profile = memory.profile
    smaller = _smaller(profile)
    alternatives = []
    if profile.text_encoder_device == "gpu":
        on_cpu = replace(profile, text_encoder_device="cpu")
        alternatives.append(_resident("text encoder on the CPU, ", [on_cpu], memory=memory, gpus=gpus))
    if smaller:
        alternatives.append(_resident("", smaller, memory=memory, gpus=gpus))
    if len(gpus) == 1:
        alternatives.append(
            _resident(f"two GPUs of {gpus[0].name}, ", [profile, *smaller], memory=memory, gpus=[gpus[0]] * 2)
        )
    if not profile.experts_in_torch:
        alternatives.append(_swapped([profile, *smaller], memory, gpus))
    if len(profile.endpoints) > 1:
        alternatives.append(_one_endpoint(memory, gpus))
    return alternatives


def _smaller(profile: ServingProfile) -> list[ServingProfile]:
    """Return the profile in smaller precisions: experts in FP8 (after BF16, from FP32), then also the VAE in BF16.

    Experts in torch have no FP8.
    """
    if profile.experts_in_torch:
        half = replace(profile, experts="bf16" if profile.experts == "fp32" else profile.experts)
        options = [half, *([replace(half, vae="bf16")] if profile.vae == "fp32" else [])]
        return [option for option in options if option != profile]
    in_eight_bits = needs_ranges(profile.experts)
    experts = [] if in_eight_bits else ["bf16", "fp8"] if profile.experts == "fp32" else ["fp8"]
    smaller = [replace(profile, experts=precision) for precision in experts]
    if profile.vae == "fp32":
        smaller.append(replace(profile, experts=profile.experts if in_eight_bits else "fp8", vae="bf16"))
    return smaller


def _resident(change: str, profiles: list[ServingProfile], *, memory: GpuMemory, gpus: Sequence[Gpu]) -> Alternative:
    """Place the first of these profiles that fits with both experts resident."""
    for profile in profiles:
        candidates = best_of_each_layout(replace(memory, profile=profile), gpus)
        placement = best_fit([c for c in candidates if c.layout is not Layout.ONE_AT_A_TIME])
        if placement is not None:
            return Alternative(change + precisions(profile), placement)
    return Alternative(change + precisions(profiles[-1]), None)


def _swapped(profiles: list[ServingProfile], memory: GpuMemory, gpus: Sequence[Gpu]) -> Alternative:
    """Place the first of these profiles that fits with one expert at a time."""
    for profile in profiles:
        best = placements(replace(memory, profile=profile), gpus, Layout.ONE_AT_A_TIME)[0]
        if best.verdict > Verdict.TOO_SMALL:
            return Alternative(f"{Layout.ONE_AT_A_TIME.value} (slower), {precisions(profile)}", best)
    return Alternative(f"{Layout.ONE_AT_A_TIME.value}, {precisions(profiles[-1])}", None)


def _one_endpoint(memory: GpuMemory, gpus: Sequence[Gpu]) -> Alternative:
    alone = replace(memory, profile=replace(memory.profile, endpoints=(STREAM,)))
    change = f"one endpoint only (--door stream), {precisions(memory.profile)}"
    return Alternative(change, best_fit(best_of_each_layout(alone, gpus)))


def precisions(profile: ServingProfile) -> str:
    """Describe the precisions, as in `experts in bf16, VAE in fp32`."""
    return f"experts in {profile.experts}, VAE in {profile.vae}"
