"""Report of a placement as text and JSON: memory table per GPU, verdict, reasons, alternatives."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from export.graphs.sizes import LISTED_SIZES, is_listed
from export.placement.alternatives import Alternative, precisions
from export.placement.cuda_pool import CACHE_SETS_IN_POOL
from export.placement.gpu_memory import GIB, VaeEngine
from export.placement.gpus import KEPT_FREE_BYTES
from export.placement.layouts import SETS_IN_PROCESS, Layout, MemoryUse, Placement, Verdict
from export.placement.pick_layout import placements
from wan_t2v.contract import VAE_DECODERS

VERDICTS = {
    Verdict.FITS: "fits",
    Verdict.TIGHT: "tight: fits if the estimates hold",
    Verdict.TOO_SMALL: "does not fit",
}
_COLUMNS = ("weights", "context", "bindings", "caches", "other")
_ESTIMATED = ("context", "other")
_NOTE = (
    "GiB. Weights, bindings, caches and Triton's pool follow from the architecture. ~ is an estimate, which only a\n"
    f"build (context) or a run (processes) measures. {KEPT_FREE_BYTES // GIB} GiB of each GPU are not planned for;\n"
    "`fits` keeps a quarter of what is estimated free with them."
)


def report_lines(
    tried: Sequence[Placement], choice: Placement | None, alternatives: Sequence[Alternative]
) -> Iterator[str]:
    """Yield the lines of the report. If nothing fits, the table shows the layout that lacks the fewest bytes."""
    shown = choice or max(tried, key=lambda placement: placement.least_free)
    sizes = ", ".join(map(str, shown.profile.sizes))
    yield f"{_gpus(shown)}; {sizes}; {precisions(shown.profile)}, text encoder in {shown.profile.text_encoder}"
    yield f"served: {', '.join(shown.profile.endpoints)}, one clip at a time at each"
    yield ""
    yield from _table(shown)
    yield _NOTE
    yield ""
    yield f"layout: {shown.description}: {VERDICTS[shown.verdict]}"
    yield from (f"  not {reason}" for reason in _passed_over(tried, shown))
    if shown.profile.experts_in_torch:
        yield "experts in torch: asked for; each has a process of its own and needs no plan"
    yield f"text encoder {text_encoder_reason(shown)}"
    yield f"VAE {shown.vae_engine.description}: {vae_reason(shown)}"
    yield from _without_plans(shown)
    if alternatives:
        yield ""
        yield "Both experts do not fit beside everything else. In this order:" if _swaps(choice) else "What would do:"
        yield from (f"  {number}. {_alternative_line(other)}" for number, other in enumerate(alternatives, start=1))


def _without_plans(placement: Placement) -> Iterator[str]:
    """Yield one line if there are sizes for which `make plans` builds nothing, and a plan would have a size."""
    if placement.profile.experts_in_torch and placement.vae_engine is VaeEngine.TORCH:
        return
    text_dim = placement.memory.architecture.expert.text_dim
    refused = [str(size) for size in placement.profile.sizes if not is_listed(size, text_dim)]
    if refused:
        accepted = ", ".join(map(str, LISTED_SIZES))
        yield f"no plans for {', '.join(refused)}: `make plans` refuses such sizes, accepted: {accepted}"


def _swaps(choice: Placement | None) -> bool:
    return choice is None or choice.layout is Layout.ONE_AT_A_TIME


def _gpus(placement: Placement) -> str:
    return " + ".join(f"{gpu.name} ({gpu.usable / GIB:.1f} GiB to plan for)" for gpu in placement.gpus)


def _table(placement: Placement) -> Iterator[str]:
    yield _row("component", "GPU", [*_COLUMNS, "sum"])
    for gpu in range(len(placement.gpus)):
        held = [use for use in placement.memory_uses if use.gpu == gpu]
        yield from (
            _row(h.component, str(gpu), [*(_cell(h, column) for column in _COLUMNS), _gib(h.total)]) for h in held
        )
        capacity = f"of {placement.gpus[gpu].usable / GIB:.1f}: {VERDICTS[placement.verdict_of(gpu)]}"
        sums = [_gib(sum(getattr(h, column) for h in held)) for column in _COLUMNS]
        yield f"{_row('all', str(gpu), [*sums, _gib(placement.needed(gpu))])} {capacity}"


def _row(component: str, gpu: str, cells: Sequence[str]) -> str:
    return f"{component:<22}{gpu:>4}" + "".join(f"{cell:>10}" for cell in cells)


def _cell(use: MemoryUse, column: str) -> str:
    size: int = getattr(use, column)
    return ("~" if size and use.estimated and column in _ESTIMATED else "") + (_gib(size) if size else "")


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _passed_over(tried: Sequence[Placement], shown: Placement) -> Iterator[str]:
    """Yield the layouts that do not fit, or fit only tightly, with their shortage; without the one shown."""
    for placement in tried:
        if placement is not shown and placement.verdict < Verdict.FITS:
            yield f"{placement.description}: {shortage(placement)}"


def shortage(placement: Placement) -> str:
    """Describe each GPU that is too full or fits tightly, as in `GPU 0 needs 103.1 of 79.0 GiB`."""
    verdicts = {gpu: placement.verdict_of(gpu) for gpu in range(len(placement.gpus))}
    return ", ".join(
        f"GPU {gpu} needs {placement.needed(gpu) / GIB:.1f} of {placement.gpus[gpu].usable / GIB:.1f} GiB"
        + (", which fits tightly" if verdict is Verdict.TIGHT else "")
        for gpu, verdict in verdicts.items()
        if verdict < Verdict.FITS
    )


def text_encoder_reason(placement: Placement) -> str:
    """Return where the text encoder runs, and why."""
    if not placement.text_encoder_on_cpu:
        return f"on GPU {placement.text_encoder}: it fits there, and a new prompt takes least time"
    plan = placement.memory.plans["text_encoder"]
    gib = _gib(plan.weights + plan.context + plan.bindings)
    why = "asked for" if placement.profile.text_encoder_device == "cpu" else f"with it on a GPU, {_on_gpu(placement)}"
    return (
        f"on the CPU: {why}. It takes {gib} GiB of host memory in place of a GPU's, and seconds for a prompt that is "
        "not in the response cache"
    )


def _on_gpu(placement: Placement) -> str:
    """Return the shortage of this layout with the text encoder on a GPU."""
    profile = replace(placement.profile, text_encoder_device="gpu")
    return shortage(placements(replace(placement.memory, profile=profile), placement.gpus, placement.layout)[0])


def vae_reason(placement: Placement) -> str:
    """Return why the VAE runs where it does."""
    one = f"a set of caches has {_gib(placement.memory.largest_cache_set)} GiB"
    bindings = sum(placement.memory.plans[name].bindings for name in VAE_DECODERS)
    pool = CACHE_SETS_IN_POOL * len(placement.profile.endpoints)
    plans = f"{pool} sets in Triton's pool and {_gib(bindings)} GiB of bindings"
    if not placement.vae_engine.in_process:
        return f"{one}; {plans} fit beside the rest, and Triton schedules and counts its calls"
    reason = f"{one}; {SETS_IN_PROCESS} sets for each endpoint, where Triton plans would hold {plans}, "
    reason += _not_with(placement, VaeEngine.TRITON_PLANS)
    if placement.vae_engine is VaeEngine.TORCH:
        reason += f". Plans in the process have a context per size, {_not_with(placement, VaeEngine.IN_PROCESS)}"
    return reason


def _not_with(placement: Placement, engine: VaeEngine) -> str:
    """Return why another engine was not chosen for this layout."""
    if placement.profile.vae_engine is not None:
        return "and this engine was asked for"
    others = placements(placement.memory, placement.gpus, placement.layout)
    other = next(other for other in others if other.vae_engine is engine)
    return f"too much for this layout ({shortage(other)})" if other.verdict < Verdict.FITS else "more than needed"


def _alternative_line(alternative: Alternative) -> str:
    if alternative.placement is None:
        return f"{alternative.change}: does not fit either"
    placement = alternative.placement
    free = f"{placement.least_free / GIB:.1f} GiB free on the fullest GPU"
    return f"{alternative.change}: {VERDICTS[placement.verdict]} ({placement.description}; {free})"


def report_json(
    tried: Sequence[Placement], choice: Placement | None, alternatives: Sequence[Alternative]
) -> dict[str, Any]:
    """Return the report as an object for `json.dumps`, with sizes in bytes."""
    return {
        "fits": choice is not None,
        "placement": None if choice is None else placement_json(choice),
        "tried": [placement_json(placement) for placement in tried],
        "offers": [
            {"change": o.change, "placement": None if o.placement is None else placement_json(o.placement)}
            for o in alternatives
        ],
    }


def placement_json(placement: Placement) -> dict[str, Any]:
    """Return one placement with the memory of each component, in bytes."""
    profile = placement.profile
    return {
        "layout": placement.layout.name.lower(),
        "verdict": placement.verdict.name.lower(),
        "vae_engine": placement.vae_engine.name.lower(),
        "vae_reason": vae_reason(placement),
        "experts": {name: list(gpus) for name, gpus in placement.expert_gpus.items()},
        "text_encoder": "cpu" if placement.text_encoder_on_cpu else placement.text_encoder,
        "text_encoder_reason": text_encoder_reason(placement),
        "vae": placement.vae,
        "precision": {
            "experts": profile.experts,
            "text_encoder": profile.text_encoder,
            "vae": profile.vae,
        },
        **({"experts_engine": "torch"} if profile.experts_in_torch else {}),
        "sizes": [str(size) for size in profile.sizes],
        "doors": list(profile.endpoints),
        "gpus": [
            {
                "name": gpu.name,
                "usable": gpu.usable,
                "needed": placement.needed(index),
                "verdict": placement.verdict_of(index).name.lower(),
            }
            for index, gpu in enumerate(placement.gpus)
        ],
        "holdings": [asdict(use) for use in placement.memory_uses],
    }
