"""Arrangements of experts, text encoder and VAE on GPUs: the memory of each, and whether it fits.

Layouts of the experts, best first:
* both on each GPU: with two GPUs, the two guidance passes run in parallel;
* one expert on each of two GPUs;
* one expert at a time: the denoiser swaps them once per clip.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import cached_property

from export.placement.cuda_pool import caches_in_pool, pool_bytes
from export.placement.gpu_memory import PROCESS_BYTES, GpuMemory, PlanMemory, ServingProfile, VaeEngine
from export.placement.gpus import KEPT_FREE_BYTES, Gpu
from export.placement.torch_memory import expert_in_torch, vae_in_torch
from wan_t2v.contract import EXPERTS, STREAM, UNARY, VAE_DECODERS

MARGIN = 0.25  # FITS needs this share of the estimated bytes free, the 4 GiB reserve included

SETS_IN_PROCESS = 2  # an engine in the decoding process writes one cache set while it reads the other
ON_CPU = -1  # in place of a GPU's index: the text encoder runs in torch on the CPU


class Layout(Enum):
    """Placement of the experts."""

    BOTH = "both experts resident"
    EXPERT_EACH = "an expert on each GPU"
    ONE_AT_A_TIME = "one expert at a time, swapped once a clip"


class Verdict(IntEnum):
    """Whether a GPU holds its components with 4 GiB free. TIGHT: only if the estimates are right."""

    TOO_SMALL = 0
    TIGHT = 1
    FITS = 2


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one component on one GPU.

    Attributes:
        other: the CUDA context of a process, and small tensors.
        estimated: the part of the total that is an estimate.
    """

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
        """Sum of all bytes."""
        return self.weights + self.context + self.bindings + self.caches + self.other


@dataclass(frozen=True)
class Placement:
    """One arrangement. `text_encoder` and `vae` are indices of `gpus`; the text encoder's may be ON_CPU."""

    memory: GpuMemory
    gpus: tuple[Gpu, ...]
    layout: Layout
    text_encoder: int
    vae: int
    vae_engine: VaeEngine

    @property
    def profile(self) -> ServingProfile:
        """Sizes, precisions and endpoints that are served."""
        return self.memory.profile

    @property
    def description(self) -> str:
        """Layout in words, for reports."""
        both = self.layout is Layout.BOTH and len(self.gpus) == 2
        return "both experts on both GPUs, guidance in parallel" if both else self.layout.value

    @property
    def expert_gpus(self) -> dict[str, tuple[int, ...]]:
        """Indices of the GPUs of each expert."""
        everywhere = tuple(range(len(self.gpus)))
        if self.layout is Layout.EXPERT_EACH:
            return dict(zip(EXPERTS, ((gpu,) for gpu in everywhere), strict=True))
        return dict.fromkeys(EXPERTS, everywhere if self.layout is Layout.BOTH else (0,))

    @cached_property
    def memory_uses(self) -> tuple[MemoryUse, ...]:
        """Memory of every component on every GPU."""
        return (*self._plans(), *self._processes())

    def _plans(self) -> Iterator[MemoryUse]:
        plans = self.memory.plans
        if not self.text_encoder_on_cpu:
            yield _use_of_plan("text_encoder", self.text_encoder, plans["text_encoder"])
        if self.layout is Layout.ONE_AT_A_TIME:
            yield _use_of_plan("one expert at a time", 0, plans[EXPERTS[0]])
        else:
            for expert, gpus in self.expert_gpus.items():
                for gpu in gpus:
                    yield from self._expert(expert, gpu)
        if not self.vae_engine.in_process:
            yield from (_use_of_plan(name, self.vae, plans[name]) for name in VAE_DECODERS)

    def _expert(self, expert: str, gpu: int) -> Iterator[MemoryUse]:
        """Yield the memory of a resident expert.

        As a torch program it has a process of its own, which opens the GPUs that its callers' latents lie on.
        """
        if not self.profile.experts_in_torch:
            yield _use_of_plan(expert, gpu, self.memory.plans[expert])
            return
        use = _use_of_plan(expert, gpu, expert_in_torch(self.memory))
        yield replace(use, other=PROCESS_BYTES, estimated=use.estimated + PROCESS_BYTES)
        callers = {UNARY: 0, STREAM: self.stream}
        for other in sorted({callers[endpoint] for endpoint in self.profile.endpoints} - {gpu}):
            yield MemoryUse(expert, other, other=PROCESS_BYTES, estimated=PROCESS_BYTES)

    def _processes(self) -> Iterator[MemoryUse]:
        working = self.memory.denoiser_working_set
        experts = {gpu for gpus in self.expert_gpus.values() for gpu in gpus}
        if UNARY in self.profile.endpoints:
            yield from _process("denoiser", 0, opens=experts, working=working)
            for use in _process("vae_decoder", self.vae, opens={0}):  # the denoiser's latents lie on the first GPU
                yield self._with_vae(use)
        if STREAM in self.profile.endpoints:
            for use in _process(STREAM, self.stream, opens={*experts, self.vae}, working=working):
                yield self._with_vae(use)
        for gpu in range(len(self.gpus)):
            yield from _process("tritonserver", gpu)
            caches = caches_in_pool(self.memory) if self.pool_holds_caches(gpu) else 0
            yield MemoryUse("CUDA pool", gpu, caches=caches, other=self.pool_bytes(gpu) - caches)

    def _with_vae(self, process: MemoryUse) -> MemoryUse:
        """Add the VAE to a process on the VAE's GPU if it runs the VAE itself; its bindings are the cache sets."""
        if not self.vae_engine.in_process or process.gpu != self.vae:
            return process
        held = [self.memory.plans[name] for name in VAE_DECODERS]
        if self.vae_engine is VaeEngine.TORCH:
            held = [vae_in_torch(self.memory)]
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
        """Whether the text encoder runs on the CPU."""
        return self.text_encoder == ON_CPU

    @property
    def stream(self) -> int:
        """Index of the streaming endpoint's GPU: the VAE's if its process runs the VAE, else the first."""
        return self.vae if self.vae_engine.in_process else 0

    def pool_holds_caches(self, gpu: int) -> bool:
        """Whether Triton's pool on this GPU holds the VAE's caches."""
        return self.vae == gpu and not self.vae_engine.in_process

    def pool_bytes(self, gpu: int) -> int:
        """Return the bytes of Triton's CUDA pool on this GPU, which tritonserver allocates at start."""
        return pool_bytes(self.memory, vae_plans=self.pool_holds_caches(gpu))

    def needed(self, gpu: int) -> int:
        """Return the bytes that a GPU must hold."""
        return sum(use.total for use in self.memory_uses if use.gpu == gpu)

    def free(self, gpu: int) -> int:
        """Return the bytes that stay free beyond the 4 GiB reserve. Negative if bytes are missing."""
        return self.gpus[gpu].usable - self.needed(gpu)

    def verdict_of(self, gpu: int) -> Verdict:
        """Return the verdict of one GPU."""
        estimated = sum(use.estimated for use in self.memory_uses if use.gpu == gpu)
        if self.free(gpu) < 0:
            return Verdict.TOO_SMALL
        return Verdict.FITS if self.free(gpu) + KEPT_FREE_BYTES >= MARGIN * estimated else Verdict.TIGHT

    @property
    def verdict(self) -> Verdict:
        """Verdict of the worst GPU."""
        return min(self.verdict_of(gpu) for gpu in range(len(self.gpus)))

    @property
    def least_free(self) -> int:
        """Bytes that stay free on the fullest GPU beyond the reserve."""
        return min(self.free(gpu) for gpu in range(len(self.gpus)))


def _use_of_plan(component: str, gpu: int, plan: PlanMemory) -> MemoryUse:
    estimated = 0 if plan.measured else plan.context
    return MemoryUse(component, gpu, plan.weights, plan.context, plan.bindings, estimated=estimated)


def _process(component: str, gpu: int, *, opens: Iterable[int] = (), working: int = 0) -> Iterator[MemoryUse]:
    """Yield a process's memory: context and tensors on its own GPU, a CUDA context on each other GPU it opens."""
    yield MemoryUse(component, gpu, other=PROCESS_BYTES + working, estimated=PROCESS_BYTES + working)
    for other in sorted({*opens} - {gpu}):
        yield MemoryUse(component, other, other=PROCESS_BYTES, estimated=PROCESS_BYTES)
