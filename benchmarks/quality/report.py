"""Table and plot of a quality run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.atomic import write_atomically

_COLUMNS = {
    "passes": "passes",
    "seconds": "seconds",
    "ratio": "of exact's time",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "colour": "colour",
    "motion": "motion",
    "shape": "shape",
}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format the rows as a Markdown table, with the columns that any row has."""
    columns = [name for name in _COLUMNS if any(name in row for row in rows.values())]
    head = ["way", *(_COLUMNS[name] for name in columns)]
    body = [[f"`{name}`", *(f"{row[column]:g}" for column in columns)] for name, row in rows.items()]
    return [_line(head), _line(["---"] * len(head)), *(_line(cells) for cells in body)]


def write_plot(path: Path, rows: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Draw PSNR over time as a PNG file, one colour per precision, written atomically.

    A dotted line marks the time of `exact`, whose own point is left out.
    """
    from matplotlib.figure import Figure  # takes a second to import, and only the plot needs it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for precision, points in points_by_precision(rows).items():
        axes.plot(*zip(*points.values(), strict=True), "o", label=precision)
        for index, (profile, point) in enumerate(sorted(points.items(), key=lambda item: item[1])):
            above = -14 if index % 2 else 6  # alternate, since labels of close points overlap
            axes.annotate(profile, point, textcoords="offset points", xytext=(0, above), fontsize=8, ha="center")
    axes.legend(fontsize=8)
    axes.axvline(1.0, linewidth=0.8, linestyle=":")
    axes.set_xlabel("time, as a share of exact's")
    axes.set_ylabel("PSNR of the frames against exact's, dB")
    axes.set_title(title, fontsize=9)
    axes.margins(0.15)
    with write_atomically(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def points_by_precision(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Group (share of exact's time, PSNR) by precision and profile, without those whose frames equal exact's.

    Rows are named `profile`, `precision` or `precision, profile`. A profile may be fields, such as `step_cache=0.05,
    guidance_skip=0.1`; no precision has a `=`.
    """
    firsts = (name.partition(", ")[0] for name in rows if ", " in name)
    others = {first for first in firsts if "=" not in first}
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for name, row in rows.items():
        first, _, rest = name.partition(", ")
        precision, profile = (first, rest or "exact") if first in others else ("precision of exact", name)
        if row["psnr_db"] < 100.0:
            points.setdefault(precision, {})[profile] = (row["ratio"], row["psnr_db"])
    return points


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
