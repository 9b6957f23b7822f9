"""Arrangements of experts, text encoder and VAE on GPUs: what each needs, and whether it fits.

Arrangements of the experts, best first. Both on each GPU: guidance's two passes run in parallel where there are two
GPUs. An expert each, on two GPUs. One at a time: the denoiser swaps them once a clip.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import cached_property

from export.placement.cuda_pool import caches_in_pool, pool_bytes
from export.placement.gpu_memory import PROCESS_BYTES, GpuMemory, PlanMemory, ServingProfile, VaeEngine
from export.placement.gpus import KEPT_FREE_BYTES, Gpu
from wan_t2v.contract import EXPERTS, STREAM, UNARY, VAE_DECODERS

MARGIN = 0.25  # share of what is estimated that must stay free, with the 4 GiB, before a placement is said to fit

SETS_IN_PROCESS = 2  # an engine in vae_decoder's own process writes to one set while it reads the other
ON_CPU = -1  # in place of a GPU: the text encoder runs in torch on the CPU


class Layout(Enum):
    """Where the experts are."""

    BOTH = "both experts resident"
    EXPERT_EACH = "an expert on each GPU"
    ONE_AT_A_TIME = "one expert at a time, swapped once a clip"


class Verdict(IntEnum):
    """Whether a GPU can hold what it should and keep 4 GiB free; TIGHT rests on the estimates being right."""

    TOO_SMALL = 0
    TIGHT = 1
    FITS = 2


@dataclass(frozen=True)
class MemoryUse:
    """What one component holds on one GPU, in bytes. `other`: a process, small tensors; `estimated`: a part of all."""

    component: str
    gpu: int
    weights: int = 0
    context: int = 0
    bindings: int = 0
    caches: int = 0
    other: int = 0
    estimated: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.context + self.bindings + self.caches + self.other


@dataclass(frozen=True)
class Placement:
    """One arrangement. Components are named by model; GPUs by their place in `gpus`, or ON_CPU."""

    memory: GpuMemory
    gpus: tuple[Gpu, ...]
    layout: Layout
    text_encoder: int
    vae: int
    vae_engine: VaeEngine

    @property
    def profile(self) -> ServingProfile:
        """What is served."""
        return self.memory.profile

    @property
    def description(self) -> str:
        """The layout, for people."""
        both = self.layout is Layout.BOTH and len(self.gpus) == 2
        return "both experts on both GPUs, guidance in parallel" if both else self.layout.value

    @property
    def expert_gpus(self) -> dict[str, tuple[int, ...]]:
        """GPUs of each expert."""
        everywhere = tuple(range(len(self.gpus)))
        if self.layout is Layout.EXPERT_EACH:
            return dict(zip(EXPERTS, ((gpu,) for gpu in everywhere), strict=True))
        return dict.fromkeys(EXPERTS, everywhere if self.layout is Layout.BOTH else (0,))

    @cached_property
    def memory_uses(self) -> tuple[MemoryUse, ...]:
        """Everything on every GPU."""
        return (*self._plans(), *self._processes())

    def _plans(self) -> Iterator[MemoryUse]:
        plans = self.memory.plans
        if not self.text_encoder_on_cpu:
            yield _use_of_plan("text_encoder", self.text_encoder, plans["text_encoder"])
        if self.layout is Layout.ONE_AT_A_TIME:
            yield _use_of_plan("one expert at a time", 0, plans[EXPERTS[0]])
        else:
            for expert, gpus in self.expert_gpus.items():
                yield from (_use_of_plan(expert, gpu, plans[expert]) for gpu in gpus)
        if not self.vae_engine.in_process:
            yield from (_use_of_plan(name, self.vae, plans[name]) for name in VAE_DECODERS)

    def _processes(self) -> Iterator[MemoryUse]:
        working = self.memory.denoiser_working_set
        experts = {gpu for gpus in self.expert_gpus.values() for gpu in gpus}
        if UNARY in self.profile.doors:
            yield from _process("denoiser", 0, opens=experts, working=working)
            for use in _process("vae_decoder", self.vae, opens={0}):  # the denoiser's latents lie on the first GPU
                yield self._with_vae(use)
        if STREAM in self.profile.doors:
            for use in _process(STREAM, self.stream, opens={*experts, self.vae}, working=working):
                yield self._with_vae(use)
        for gpu in range(len(self.gpus)):
            yield from _process("tritonserver", gpu)
            caches = caches_in_pool(self.memory) if self.pool_holds_caches(gpu) else 0
            yield MemoryUse("CUDA pool", gpu, caches=caches, other=self.pool_bytes(gpu) - caches)

    def _with_vae(self, process: MemoryUse) -> MemoryUse:
        """A process on the VAE's GPU: with an engine in it, it holds the VAE, and caches for bindings."""
        if not self.vae_engine.in_process or process.gpu != self.vae:
            return process
        held = [self.memory.plans[name] for name in VAE_DECODERS]
        if self.vae_engine is VaeEngine.TORCH:
            held = [self.memory.vae_in_torch]
        plans = [_use_of_plan(process.component, self.vae, plan) for plan in held]
        return replace(
            process,
            weights=sum(plan.weights for plan in plans),
            context=sum(plan.context for plan in plans),
            caches=SETS_IN_PROCESS * self.memory.largest_cache_set,
            estimated=process.estimated + sum(plan.estimated for plan in plans),
        )

    @property
    def text_encoder_on_cpu(self) -> bool:
        """Whether the text encoder takes host memory in place of a GPU's."""
        return self.text_encoder == ON_CPU

    @property
    def stream(self) -> int:
        """GPU of the streaming door's process: the VAE's where that runs in it, else that of the first expert."""
        return self.vae if self.vae_engine.in_process else 0

    def pool_holds_caches(self, gpu: int) -> bool:
        """Whether the VAE's caches go through Triton's pool on this GPU."""
        return self.vae == gpu and not self.vae_engine.in_process

    def pool_bytes(self, gpu: int) -> int:
        """Triton's CUDA pool on this GPU, which the server takes at its start."""
        return pool_bytes(self.memory, vae_plans=self.pool_holds_caches(gpu))

    def needed(self, gpu: int) -> int:
        """Bytes that a GPU must hold."""
        return sum(use.total for use in self.memory_uses if use.gpu == gpu)

    def free(self, gpu: int) -> int:
        """Bytes that stay free beside the 4 GiB that always do; below 0, that are missing."""
        return self.gpus[gpu].usable - self.needed(gpu)

    def verdict_of(self, gpu: int) -> Verdict:
        """Of one GPU."""
        estimated = sum(use.estimated for use in self.memory_uses if use.gpu == gpu)
        if self.free(gpu) < 0:
            return Verdict.TOO_SMALL
        return Verdict.FITS if self.free(gpu) + KEPT_FREE_BYTES >= MARGIN * estimated else Verdict.TIGHT

    @property
    def verdict(self) -> Verdict:
        """Of the worst GPU."""
        return min(self.verdict_of(gpu) for gpu in range(len(self.gpus)))

    @property
    def least_free(self) -> int:
        """Bytes free on the fullest GPU."""
        return min(self.free(gpu) for gpu in range(len(self.gpus)))


def _use_of_plan(component: str, gpu: int, plan: PlanMemory) -> MemoryUse:
    estimated = 0 if plan.measured else plan.context
    return MemoryUse(component, gpu, plan.weights, plan.context, plan.bindings, estimated=estimated)


def _process(component: str, gpu: int, *, opens: Iterable[int] = (), working: int = 0) -> Iterator[MemoryUse]:
    """A process on its own GPU with its tensors, and its CUDA context on each other GPU that it opens."""
    yield MemoryUse(component, gpu, other=PROCESS_BYTES + working, estimated=PROCESS_BYTES + working)
    for other in sorted({*opens} - {gpu}):
        yield MemoryUse(component, other, other=PROCESS_BYTES, estimated=PROCESS_BYTES)
