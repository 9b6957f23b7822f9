"""Report of experts' errors over a generation, as JSON and as a plot: per step, per expert, per band of timesteps."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.atomic import write_atomically
from export.graphs.precision import io_precision, is_fp8, is_int8
from export.parity.graph_parity import largest_error
from export.parity.teacher_forced import BANDS, ReferencePass
from wan_t2v.contract import EXPERTS

NOISE_FLOOR = "torch bf16"
REPORT_FILE, PLOT_FILE = "trajectory.json", "trajectory.png"


@dataclass(frozen=True)
class Limit:
    """Largest accepted median error of a candidate in either expert, and the reason for it."""

    relative: float
    reason: str


def limit_of(precision: str, floor: float) -> Limit:
    """Return the limit for a graph or plan in `precision`. `floor` is the median error of torch in BF16."""
    if is_fp8(precision):
        return Limit(0.1, "four bits of fraction in most linear layers")
    if is_int8(precision):
        return Limit(0.05, "eight bits in the inputs of linear layers, seven in their weights")
    if io_precision(precision) == "fp32":
        return Limit(1e-4, "FP32 sums in another order")
    if precision == "fp16":
        return Limit(floor, "three more bits of fraction than BF16, so not more than BF16 in torch")
    return Limit(2.0 * floor, "BF16 in another order: twice what BF16 in torch costs")


def report(passes: Sequence[ReferencePass], errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Build the report: per candidate, each step's larger error of the two guidance passes, and summaries."""
    return {
        "reference": "diffusers' modules in FP32; every candidate sees the reference's latents at every step",
        "error": "Euclidean norm of the velocity's difference over that of the reference",
        "candidates": {
            name: {
                "steps": _steps(passes, relative),
                "by_expert": {e: _summary(f for c, f in _zip(passes, relative) if c.expert == e) for e in EXPERTS},
                "by_band": {
                    f"{lowest}-{highest - 1}": _summary(
                        f for c, f in _zip(passes, relative) if lowest <= c.timestep < highest
                    )
                    for lowest, highest in BANDS
                },
            }
            for name, relative in errors.items()
        },
    }


def worst_median(candidate: Mapping[str, Any]) -> float:
    """Return the larger of the experts' median errors of one candidate in a report. NaN if either is NaN."""
    medians = [summary["median"] for summary in candidate["by_expert"].values() if summary]
    return largest_error(medians)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write `trajectory.json` and `trajectory.png` into a folder, each atomically."""
    with write_atomically(folder / REPORT_FILE) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with write_atomically(folder / PLOT_FILE) as partial:
        _draw(partial, report)


def _zip(passes: Sequence[ReferencePass], errors: Sequence[float]) -> Any:
    return zip(passes, errors, strict=True)


def _steps(passes: Sequence[ReferencePass], errors: Sequence[float]) -> list[dict[str, Any]]:
    steps: dict[int, dict[str, Any]] = {}
    for call, error in _zip(passes, errors):
        row = steps.setdefault(
            call.step, {"step": call.step, "timestep": call.timestep, "expert": call.expert, "relative": 0.0}
        )
        row["relative"] = largest_error((row["relative"], error))
    return [steps[step] for step in sorted(steps)]


def _summary(errors: Any) -> dict[str, float] | None:
    """Summarise errors. None without any pass; NaN if any error is NaN, which `median` and `max` could hide."""
    values = list(errors)
    if not values:
        return None
    if any(math.isnan(error) for error in values):
        return {"median": math.nan, "largest": math.nan, "passes": len(values)}
    return {"median": statistics.median(values), "largest": max(values), "passes": len(values)}


def _draw(path: Path, report: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure  # takes a second to import, and only the plot needs it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, candidate in report["candidates"].items():
        steps = candidate["steps"]
        style = "--" if name == NOISE_FLOOR else "-"
        axes.plot([s["step"] for s in steps], [s["relative"] for s in steps], style, marker=".", label=name)
    switch = sum(step["expert"] == EXPERTS[0] for step in steps) + 0.5
    axes.axvline(switch, color="grey", linewidth=0.8)
    axes.annotate("low-noise expert", (switch, 1.0), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
    axes.set(yscale="log", xlabel="step", ylabel="relative error of the velocity")
    axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=120)
