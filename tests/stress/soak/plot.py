"""Plot of a soak."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plotted(result: Mapping[str, Any], path: Path) -> None:
    """Plot memory by model, open files and shared memory over time, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = result["series"]
    memory = {name: values for name, values in series.items() if name.startswith("memory of ") and " all" not in name}
    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 9), sharex=True, height_ratios=(3, 1, 1))
    for name, values in sorted(memory.items(), key=lambda item: -max(item[1])):
        top.plot(result["at_min"], values, label=name.removeprefix("memory of ").removesuffix(", MiB"), linewidth=1)
    top.set_ylabel("allocated, MiB")
    top.legend(fontsize=7, ncols=3)
    middle.plot(result["at_min"], series["open files"], linewidth=1)
    middle.set_ylabel("open files")
    bottom.plot(result["at_min"], series["shared memory, MiB"], linewidth=1)
    bottom.set_ylabel("shared memory, MiB")
    bottom.set_xlabel("minutes")
    for axes in (top, middle, bottom):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{result['requests']} requests in {result['minutes']:g} minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
