"""Choice of the best arrangement that a set of GPUs allows."""

from collections.abc import Sequence
from itertools import product

from export.placement.gpu_memory import GpuMemory, SettingsError, VaeEngine
from export.placement.gpus import Gpu
from export.placement.layouts import ON_CPU, Layout, Placement, Verdict
from wan_t2v.contract import STREAM

_ENGINES = tuple(VaeEngine)


def placements(memory: GpuMemory, gpus: Sequence[Gpu], layout: Layout) -> list[Placement]:
    """Return every arrangement of this layout that the operator's choices allow, best first.

    The order is by verdict, then a text encoder on a GPU before one on the CPU, then VAE engines in their order of
    preference, then most free memory. Arrangements that do not fit are ordered by free memory alone.
    """
    profile, places = memory.profile, range(len(gpus))
    encoders = {"gpu": [*places], "cpu": [ON_CPU], None: [*places, ON_CPU]}[profile.text_encoder_device]
    engines = _ENGINES if profile.vae_engine is None else (profile.vae_engine,)
    arrangements = [
        Placement(memory, tuple(gpus), layout, text_encoder, vae, engine)
        for text_encoder, vae, engine in product(encoders, places, engines)
    ]
    if layout is Layout.ONE_AT_A_TIME:  # the process that swaps checks its own GPU's memory; experts are on the first
        arrangements = [p for p in arrangements if STREAM not in profile.endpoints or p.stream == 0]
    return sorted(arrangements, key=_preference)


def _preference(placement: Placement) -> tuple[int, bool, int, int]:
    """Sort key: best first. Arrangements that do not fit are ordered by the fewest missing bytes."""
    fits = placement.verdict > Verdict.TOO_SMALL
    engine = _ENGINES.index(placement.vae_engine) if fits else 0
    return -placement.verdict, fits and placement.text_encoder_on_cpu, engine, -placement.least_free


def layouts(gpus: Sequence[Gpu], *, experts_in_torch: bool = False) -> list[Layout]:
    """Return the layouts that this number of GPUs allows, best first. Torch programs are not swapped.

    Raises SettingsError for 0 or more than 2 GPUs.
    """
    if not 1 <= len(gpus) <= 2:
        raise SettingsError(
            f"{len(gpus)} GPUs, accepted: one or two. One clip uses at most two (guidance has two passes); "
            "for more, run a server for each one or two."
        )
    impossible = {Layout.EXPERT_EACH} if len(gpus) == 1 else set[Layout]()
    impossible |= {Layout.ONE_AT_A_TIME} if experts_in_torch else set()
    return [layout for layout in Layout if layout not in impossible]


def best_of_each_layout(memory: GpuMemory, gpus: Sequence[Gpu]) -> list[Placement]:
    """Return the best arrangement of each layout, in order of preference, whether it fits or not."""
    allowed = layouts(gpus, experts_in_torch=memory.profile.experts_in_torch)
    return [placements(memory, gpus, layout)[0] for layout in allowed]


def best_fit(candidates: Sequence[Placement]) -> Placement | None:
    """Return the best candidate that fits, None if none does.

    Layouts with both experts resident come first, even if they fit only tightly, then swapped experts.
    """
    order = sorted(
        (candidate for candidate in candidates if candidate.verdict > Verdict.TOO_SMALL),
        key=lambda p: (p.layout is Layout.ONE_AT_A_TIME, -p.verdict),
    )
    return order[0] if order else None
