"""Plot of a results file: one panel per benchmark."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export.atomic import write_atomically

LIMIT = 1.03  # largest accepted ratio for progress and previews
_WIDTH = 0.6


def write_plot(path: Path, results: Mapping[str, Any]) -> None:
    """Draw `results` as a PNG file, written atomically."""
    from matplotlib.figure import Figure  # takes a second to import, and only the plot needs it

    figure = Figure(figsize=(13, 7), layout="constrained")
    about = results["about"]
    kind = "  A REHEARSAL: THESE ARE NO FIGURES" if about["quick"] else ""
    figure.suptitle(f"{about['machine']}, commit {about['commit']}, {about['date']}{kind}", fontsize=10)
    for axes, (name, draw) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        part = results["parts"].get(name, {})
        if part.get("status") == "measured":
            draw(axes, part["result"])
        else:
            axes.set_title(f"{name}: {part.get('status', 'not run')}", fontsize=9)
            axes.set_axis_off()
    with write_atomically(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _bars(axes: Any, heights: Mapping[str, float], *, title: str, unit: str) -> None:
    bars = axes.bar(list(heights), list(heights.values()), width=_WIDTH)
    axes.bar_label(bars, fmt="%.3g", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.15)


def _generation(axes: Any, result: Mapping[str, Any]) -> None:
    heights = {"through Triton": result["triton_s"], "diffusers": result["diffusers_s"]}
    _bars(axes, heights, title=f"a generation: ratio {result['ratio']:.2f}", unit="s")


def _endpoints(axes: Any, result: Mapping[str, Any]) -> None:
    names = {"stream /\nunary": "stream_over_unary", "previews /\nstream": "previews_over_stream"}
    names["previews /\nunary"] = "previews_over_unary"
    heights = {label: result[name] for label, name in names.items()}
    _bars(axes, heights, title="latency of the endpoints, by ratio; dashed: the limit", unit="ratio")
    axes.axhline(LIMIT, linestyle="--", color="grey", linewidth=0.8)
    axes.set_ylim(min(0.95, *heights.values()) - 0.01, max(1.05, *heights.values()) + 0.01)


def _perf_analyzer(axes: Any, result: Mapping[str, Any]) -> None:
    heights = {
        f"{endpoint}\n{level.removeprefix('concurrency_')} at once": result[endpoint][level]["latency_s"]["p50"]
        for endpoint in ("unary", "stream")
        for level in result.get(endpoint, {})
    }
    _bars(axes, heights, title="perf_analyzer: median latency", unit="s")


def _load(axes: Any, result: Mapping[str, Any]) -> None:
    rows = {size: figures for size, figures in result["latency_s"].items() if figures}
    rows["waiting"] = result["queue_wait_s"] or {"p50": 0.0, "p90": 0.0, "p99": 0.0}
    width = _WIDTH / 3
    for index, name in enumerate(("p50", "p90", "p99")):
        places = [place + (index - 1) * width for place in range(len(rows))]
        axes.bar(places, [figures[name] for figures in rows.values()], width=width, label=name)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.tick_params(labelsize=8)
    axes.set_title(f"load: {result['rate_per_s']:.2f} requests a second by chance", fontsize=9)
    axes.set_ylabel("s", fontsize=8)
    axes.legend(fontsize=8)


def _mlperf(axes: Any, result: Mapping[str, Any]) -> None:
    offline = result["offline"]["samples_per_s"]
    heights = {"SingleStream\np50": result["single_stream"]["latency_s"]["p50"]}
    heights["SingleStream\np90"] = result["single_stream"]["p90_s"]
    heights["Offline\ns a sample"] = 1 / offline
    _bars(axes, heights, title=f"MLPerf's shape, unofficial, {result['size']}: {offline:.3g} samples/s", unit="s")


def _comparison(axes: Any, result: Mapping[str, Any]) -> None:
    heights = {name: figures["alone_s"] for name, figures in result["servers"].items()}
    _bars(axes, heights, title="the same video from other servers, alone", unit="s")


PANELS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "generation": _generation,
    "doors": _endpoints,
    "perf_analyzer": _perf_analyzer,
    "load": _load,
    "mlperf": _mlperf,
    "comparison": _comparison,
}
