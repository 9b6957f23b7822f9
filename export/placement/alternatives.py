"""Ways out where both experts do not fit, in the order in which they should be weighed.

The text encoder on the CPU where it was asked for on a GPU, FP8, two GPUs, swapping, one endpoint alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.placement.choose import best_of_each_layout, chosen, placements
from export.placement.gpu_memory import Deployment, GpuMemory
from export.placement.gpus import Gpu
from export.placement.layouts import Layout, Placement, Verdict
from wan_t2v.contract import STREAM


@dataclass(frozen=True)
class Offer:
    """What to change, and the placement that follows; None says that it would not fit either."""

    change: str
    placement: Placement | None


def offers(memory: GpuMemory, gpus: Sequence[Gpu]) -> list[Offer]:
    """The ways out; one that does not apply (FP8 is in use, two GPUs are given) is left out. Last, where both doors are
    served, what one of them alone would need.
    """
    asked = memory.deployment
    smaller = _smaller(asked)
    found = []
    if asked.text_encoder_device == "gpu":
        on_cpu = replace(asked, text_encoder_device="cpu")
        found.append(_resident("text encoder on the CPU, ", [on_cpu], memory=memory, gpus=gpus))
    if smaller:
        found.append(_resident("", smaller, memory=memory, gpus=gpus))
    if len(gpus) == 1:
        found.append(_resident(f"two GPUs of {gpus[0].name}, ", [asked, *smaller], memory=memory, gpus=[gpus[0]] * 2))
    found.append(_swapped([asked, *smaller], memory, gpus))
    if len(asked.doors) > 1:
        found.append(_one_door(memory, gpus))
    return found


def _smaller(asked: Deployment) -> list[Deployment]:
    """The same with smaller numbers: experts in FP8 (from FP32, in BF16 first), then the VAE in BF16 as well."""
    experts = {"fp32": ["bf16", "fp8"], "fp8": []}.get(asked.experts, ["fp8"])
    found = [replace(asked, experts=precision) for precision in experts]
    if asked.vae == "fp32":
        found.append(replace(asked, experts="fp8", vae="bf16"))
    return found


def _resident(change: str, deployments: list[Deployment], *, memory: GpuMemory, gpus: Sequence[Gpu]) -> Offer:
    """The first of these deployments whose two experts stay loaded."""
    for deployment in deployments:
        candidates = best_of_each_layout(replace(memory, deployment=deployment), gpus)
        found = chosen([c for c in candidates if c.layout is not Layout.ONE_AT_A_TIME])
        if found is not None:
            return Offer(change + precisions(deployment), found)
    return Offer(change + precisions(deployments[-1]), None)


def _swapped(deployments: list[Deployment], memory: GpuMemory, gpus: Sequence[Gpu]) -> Offer:
    """The first of these deployments that fits with one expert at a time."""
    for deployment in deployments:
        best = placements(replace(memory, deployment=deployment), gpus, Layout.ONE_AT_A_TIME)[0]
        if best.verdict > Verdict.TOO_SMALL:
            return Offer(f"{Layout.ONE_AT_A_TIME.value} (slower), {precisions(deployment)}", best)
    return Offer(f"{Layout.ONE_AT_A_TIME.value}, {precisions(deployments[-1])}", None)


def _one_door(memory: GpuMemory, gpus: Sequence[Gpu]) -> Offer:
    alone = replace(memory, deployment=replace(memory.deployment, doors=(STREAM,)))
    change = f"one door only (--door stream), {precisions(memory.deployment)}"
    return Offer(change, chosen(best_of_each_layout(alone, gpus)))


def precisions(deployment: Deployment) -> str:
    """`experts in bf16, VAE in fp32`."""
    return f"experts in {deployment.experts}, VAE in {deployment.vae}"
