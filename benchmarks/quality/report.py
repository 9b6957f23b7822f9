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
    """Draw PSNR over time as a PNG file, written atomically. A dotted line marks the time of `exact`."""
    from matplotlib.figure import Figure  # takes a second to import, and only the plot needs it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, row) in enumerate(sorted(rows.items(), key=lambda item: item[1]["psnr_db"])):
        if row["psnr_db"] < 100.0:
            point = (row["ratio"], row["psnr_db"])
            axes.scatter(*point)
            above = 5 if index % 2 else -12  # alternate, since labels of close points overlap
            axes.annotate(name, point, textcoords="offset points", xytext=(-6, above), fontsize=8, ha="right")
    axes.axvline(1.0, linewidth=0.8, linestyle=":")
    axes.set_xlabel("time, as a share of exact's")
    axes.set_ylabel("PSNR of the frames against exact's, dB")
    axes.set_title(title, fontsize=9)
    axes.margins(0.15)
    with write_atomically(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
