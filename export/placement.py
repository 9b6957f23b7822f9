"""What goes on which GPU: every arrangement of experts, text encoder and VAE, what each needs, and the best that fits.

Arrangements of the experts, best first. Both on each GPU: guidance's two passes run in parallel where there are two
GPUs. An expert each, on two GPUs. One at a time: the denoiser swaps them once a clip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import cached_property
from itertools import product

from export.gpu_memory import (
    POOL_BYTES,
    PROCESS_BYTES,
    STREAM,
    UNARY,
    Deployment,
    GpuMemory,
    PlanMemory,
    SettingsError,
)
from export.gpus import Gpu

EXPERTS = ("high_noise_expert", "low_noise_expert")
VAE_PLANS = ("vae_decoder_first", "vae_decoder_next")
MARGIN = 0.25  # share of what is estimated that must stay free before a placement is said to fit

# Sets of caches alive during a call of vae_decoder_next, beside the plans' bindings (one set of vae_decoder_first, two
# of vae_decoder_next): the last answer, the server's copy of it as input, the answer that is being made.
SETS_IN_CALLS = 3
SETS_IN_PROCESS = 2  # an engine in vae_decoder's own process writes to one set while it reads the other


class Layout(Enum):
    """Where the experts are."""

    BOTH = "both experts resident"
    EXPERT_EACH = "an expert on each GPU"
    ONE_AT_A_TIME = "one expert at a time, swapped once a clip"


class VaeEngine(Enum):
    """What runs the VAE's plans."""

    TRITON_PLANS = "as Triton plans"
    IN_PROCESS = "in the process that decodes"

    @property
    def in_process(self) -> bool:
        """Whether it runs outside Triton's TensorRT backend."""
        return self is VaeEngine.IN_PROCESS


class Verdict(IntEnum):
    """Whether a GPU can hold what it should; TIGHT rests on the estimates being right."""

    TOO_SMALL = 0
    TIGHT = 1
    FITS = 2


@dataclass(frozen=True)
class Holding:
    """What one component holds on one GPU, in bytes. `other` is a process or the pool; `estimated` a part of all."""

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
    """One arrangement. Components are named by model; GPUs by their place in `gpus`."""

    memory: GpuMemory
    gpus: tuple[Gpu, ...]
    layout: Layout
    text_encoder: int
    vae: int
    vae_engine: VaeEngine

    @property
    def deployment(self) -> Deployment:
        """What is served."""
        return self.memory.deployment

    @property
    def words(self) -> str:
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
    def holdings(self) -> tuple[Holding, ...]:
        """Everything on every GPU."""
        return (*self._plans(), *self._processes())

    def _plans(self) -> Iterator[Holding]:
        plans = self.memory.plans
        yield _holding("text_encoder", self.text_encoder, plans["text_encoder"])
        if self.layout is Layout.ONE_AT_A_TIME:
            yield _holding("one expert at a time", 0, plans[EXPERTS[0]])
        else:
            for expert, gpus in self.expert_gpus.items():
                yield from (_holding(expert, gpu, plans[expert]) for gpu in gpus)
        if not self.vae_engine.in_process:
            yield from (_holding(name, self.vae, plans[name]) for name in VAE_PLANS)

    def _processes(self) -> Iterator[Holding]:
        working = PROCESS_BYTES + self.memory.denoiser_working_set
        if UNARY in self.deployment.doors:
            yield Holding("denoiser", 0, other=working, estimated=working)
            yield self._with_vae(Holding("vae_decoder", self.vae, other=PROCESS_BYTES, estimated=PROCESS_BYTES))
        if STREAM in self.deployment.doors:
            yield self._with_vae(Holding(STREAM, self.stream, other=working, estimated=working))
        if not self.vae_engine.in_process:
            yield Holding("calls of the VAE", self.vae, caches=self.caches_in_calls)
        for gpu in range(len(self.gpus)):
            both = PROCESS_BYTES + POOL_BYTES
            yield Holding("tritonserver", gpu, other=both, estimated=both)

    def _with_vae(self, process: Holding) -> Holding:
        """A process that decodes: with an engine in it, it holds the plans, and caches for bindings."""
        if not self.vae_engine.in_process:
            return process
        plans = [_holding(name, self.vae, self.memory.plans[name]) for name in VAE_PLANS]
        return replace(
            process,
            weights=sum(plan.weights for plan in plans),
            context=sum(plan.context for plan in plans),
            caches=SETS_IN_PROCESS * self.memory.largest_cache_set,
            estimated=process.estimated + sum(plan.estimated for plan in plans),
        )

    @property
    def stream(self) -> int:
        """GPU of the streaming door's process: the VAE's where that runs in it, else that of the first expert."""
        return self.vae if self.vae_engine.in_process else 0

    @property
    def caches_in_calls(self) -> int:
        """Bytes of caches on their way from call to call, one clip being decoded at each door."""
        return len(self.deployment.doors) * SETS_IN_CALLS * self.memory.largest_cache_set

    def needed(self, gpu: int) -> int:
        """Bytes that a GPU must hold."""
        return sum(holding.total for holding in self.holdings if holding.gpu == gpu)

    def free(self, gpu: int) -> int:
        """Bytes that stay free; below 0, that are missing."""
        return self.gpus[gpu].usable - self.needed(gpu)

    def verdict_of(self, gpu: int) -> Verdict:
        """Of one GPU."""
        estimated = sum(holding.estimated for holding in self.holdings if holding.gpu == gpu)
        if self.free(gpu) < 0:
            return Verdict.TOO_SMALL
        return Verdict.FITS if self.free(gpu) >= MARGIN * estimated else Verdict.TIGHT

    @property
    def verdict(self) -> Verdict:
        """Of the worst GPU."""
        return min(self.verdict_of(gpu) for gpu in range(len(self.gpus)))

    @property
    def least_free(self) -> int:
        """Bytes free on the fullest GPU."""
        return min(self.free(gpu) for gpu in range(len(self.gpus)))


def _holding(component: str, gpu: int, plan: PlanMemory) -> Holding:
    estimated = 0 if plan.measured else plan.context
    return Holding(component, gpu, plan.weights, plan.context, plan.bindings, estimated=estimated)


def placements(memory: GpuMemory, gpus: Sequence[Gpu], layout: Layout) -> list[Placement]:
    """Every arrangement of this layout, the best first: those that fit before those that fit tightly, among them Triton
    plans before an in-process engine; then, and where nothing fits only, the most memory free (or the least missing).
    """
    places = range(len(gpus))
    found = [
        Placement(memory, tuple(gpus), layout, text_encoder, vae, engine)
        for text_encoder, vae, engine in product(places, places, VaeEngine)
    ]
    if layout is Layout.ONE_AT_A_TIME:  # who swaps watches the memory of its own GPU, and the experts are on the first
        found = [p for p in found if STREAM not in memory.deployment.doors or p.stream == 0]
    return sorted(found, key=lambda p: (-p.verdict, bool(p.verdict) and p.vae_engine.in_process, -p.least_free))


def layouts(gpus: Sequence[Gpu]) -> list[Layout]:
    """Layouts that so many GPUs allow, best first. Raises SettingsError."""
    if not 1 <= len(gpus) <= 2:
        raise SettingsError(
            f"{len(gpus)} GPUs, accepted: one or two. One clip uses at most two (guidance has two passes); "
            "for more, run a server for each one or two."
        )
    return [layout for layout in Layout if layout is not Layout.EXPERT_EACH or len(gpus) == 2]


def best_of_each_layout(memory: GpuMemory, gpus: Sequence[Gpu]) -> list[Placement]:
    """The best arrangement of each layout, in the order of preference, fitting or not."""
    return [placements(memory, gpus, layout)[0] for layout in layouts(gpus)]


def chosen(candidates: Sequence[Placement]) -> Placement | None:
    """The first that fits; else the first that fits tightly, both experts resident before swapped ones; else None."""
    order = sorted(
        (candidate for candidate in candidates if candidate.verdict > Verdict.TOO_SMALL),
        key=lambda p: (p.layout is Layout.ONE_AT_A_TIME, -p.verdict),
    )
    return order[0] if order else None
