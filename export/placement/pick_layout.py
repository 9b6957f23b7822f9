"""Choice among the arrangements that a set of GPUs allows."""

from collections.abc import Sequence
from itertools import product

from export.placement.gpu_memory import GpuMemory, SettingsError, VaeEngine
from export.placement.gpus import Gpu
from export.placement.layouts import ON_CPU, Layout, Placement, Verdict
from wan_t2v.contract import STREAM

_ENGINES = tuple(VaeEngine)


def placements(memory: GpuMemory, gpus: Sequence[Gpu], layout: Layout) -> list[Placement]:
    """Every arrangement of this layout that the operator allows, the best first.

    Those that fit come before those that fit tightly. Among them a text encoder on a GPU comes before one on the CPU,
    then VAE engines in their order of preference. Then, and where nothing fits, the most memory free decides.
    """
    profile, places = memory.profile, range(len(gpus))
    encoders = {"gpu": [*places], "cpu": [ON_CPU], None: [*places, ON_CPU]}[profile.text_encoder_device]
    engines = _ENGINES if profile.vae_engine is None else (profile.vae_engine,)
    arrangements = [
        Placement(memory, tuple(gpus), layout, text_encoder, vae, engine)
        for text_encoder, vae, engine in product(encoders, places, engines)
    ]
    if layout is Layout.ONE_AT_A_TIME:  # who swaps watches the memory of its own GPU, and the experts are on the first
        arrangements = [p for p in arrangements if STREAM not in profile.doors or p.stream == 0]
    return sorted(arrangements, key=_preference)


def _preference(placement: Placement) -> tuple[int, bool, int, int]:
    """Sorts the best first; what does not fit by the least that is missing alone."""
    fits = placement.verdict > Verdict.TOO_SMALL
    engine = _ENGINES.index(placement.vae_engine) if fits else 0
    return -placement.verdict, fits and placement.text_encoder_on_cpu, engine, -placement.least_free


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


def best_fit(candidates: Sequence[Placement]) -> Placement | None:
    """The first that fits; else the first that fits tightly, both experts resident before swapped ones; else None."""
    order = sorted(
        (candidate for candidate in candidates if candidate.verdict > Verdict.TOO_SMALL),
        key=lambda p: (p.layout is Layout.ONE_AT_A_TIME, -p.verdict),
    )
    return order[0] if order else None
