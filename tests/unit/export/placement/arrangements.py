"""Placements of A14B for tests: what is served, on which GPUs, and what is decided."""

from typing import Any

from export.checkpoint.architecture import A14B
from export.placement.gpu_memory import (
    GpuMemory,
    ServingProfile,
    VaeEngine,
    unique_sizes,
)
from export.placement.gpus import Gpu
from export.placement.layouts import Layout, Placement
from export.placement.pick_layout import best_fit, best_of_each_layout, placements
from wan_t2v.contract import UNARY


def asked(*sizes: str, endpoints: tuple[str, ...] = (UNARY,), **settings: Any) -> GpuMemory:
    return GpuMemory(A14B, ServingProfile(unique_sizes(sizes), endpoints=endpoints, **settings), {})


def gpus(*sizes: str) -> list[Gpu]:
    return [Gpu.parse(size) for size in sizes]


def decided(size: str, *sizes: str, **settings: Any) -> Placement | None:
    return best_fit(best_of_each_layout(asked(size, **settings), gpus(*sizes)))


def first_with(engine: VaeEngine, memory: GpuMemory, gpu: str, layout: Layout = Layout.BOTH) -> Placement:
    return next(p for p in placements(memory, gpus(gpu), layout) if p.vae_engine is engine and p.text_encoder == 0)


def placed(
    layout: Layout, *cards: str, engine: VaeEngine, sizes: tuple[str, ...] = ("720x1280",), **settings: Any
) -> Placement:
    """The first of this layout with this engine of the VAE; the text encoder is on a GPU unless the settings differ."""
    candidates = placements(asked(*sizes, **{"text_encoder_device": "gpu", **settings}), gpus(*cards), layout)
    return next(placement for placement in candidates if placement.vae_engine is engine)


SWAPPED = placed(Layout.ONE_AT_A_TIME, "80", engine=VaeEngine.IN_PROCESS)
BOTH = placed(Layout.BOTH, "141", engine=VaeEngine.TRITON_PLANS)
TWO = placed(Layout.EXPERT_EACH, "80", "80", engine=VaeEngine.IN_PROCESS)
