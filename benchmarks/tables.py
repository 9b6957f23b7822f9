"""Print a results file as the tables of docs/design/benchmarks.md.

python -m benchmarks.tables benchmarks/results/FILE.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Sequence[object]
Table = tuple[Row, list[Row]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Returns an exit code: 1 if the file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    options = parser.parse_args(arguments)
    try:
        results = json.loads(options.results.read_bytes())
    except (OSError, ValueError) as error:
        print(f"error: {options.results} is no file of results: {error}", file=sys.stderr)
        return 1
    print(markdown(results))
    return 0


def markdown(results: Mapping[str, Any]) -> str:
    """Format one Markdown table per measured benchmark, after a line with the machine, date and commit."""
    about = results["about"]
    blocks = [f"Measured on {about['machine']}, {about['date']}, commit {about['commit']}."]
    if about["quick"]:
        blocks.append("**A rehearsal: these are no figures.**")
    for name, table in TABLES.items():
        part = results["parts"].get(name, {})
        if part.get("status") == "measured":
            blocks.append(f"**{name}**\n\n{_lines(*table(part['result']))}")
    return "\n\n".join(blocks)


def _lines(head: Row, rows: list[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _generation(result: Mapping[str, Any]) -> Table:
    head = ("through Triton", "diffusers", "ratio", "outside graphs")
    seconds = [f"{result[name]:.2f} s" for name in ("triton_s", "diffusers_s")]
    return head, [(*seconds, f"{result['ratio']:.2f}", f"{result['outside_graphs']:.1%}")]


def _endpoints(result: Mapping[str, Any]) -> Table:
    rows: list[Row] = [(f"`{name}`", f"{result[name]:.3f}", "at most 1.03") for name in _ENDPOINT_RATIOS]
    return ("ratio", "measured", "goal"), [*rows, ("`four_at_once`", f"{result['four_at_once']:.3f}", "")]


def _perf_analyzer(result: Mapping[str, Any]) -> Table:
    head = ("endpoint", "concurrency", "videos per second", "median", "p90", "median to the first response")
    rows: list[Row] = [
        (endpoint, level.rpartition("_")[2], f"{row['videos_per_s']:.2f}", *_seconds(row["latency_s"], "p50", "p90"))
        + tuple(_seconds(row["first_response_s"], "p50"))
        for endpoint in ("unary", "stream")
        for level, row in result.get(endpoint, {}).items()
    ]
    return head, rows


def _load(result: Mapping[str, Any]) -> Table:
    head = ("what", "count", "median", "p90", "p99")
    rows = {**{f"latency, {size}": row for size, row in result["latency_s"].items()}}
    rows |= {"waiting for its turn": result["queue_wait_s"], "from step to step": result["step_gap_s"]}
    lines: list[Row] = [(name, row["count"], *_seconds(row, "p50", "p90", "p99")) for name, row in rows.items() if row]
    outcomes = ", ".join(f"{result[name]} {name}" for name in ("finished", "cancelled", "refused", "failed"))
    total = f"{result['rate_per_s']:.2f} requests/s, {result['videos_per_s']:.2f} videos/s; {outcomes}"
    return head, [*lines, (total, result["requests"], "", "", "")]


def _mlperf(result: Mapping[str, Any]) -> Table:
    head = ("unofficial, size", "SingleStream p90", "Offline", "different videos of prompts")
    offline = f"{result['offline']['samples_per_s']:.2f} samples/s"
    p90 = f"{result['single_stream']['p90_s']:.3f} s"
    return head, [(result["size"], p90, offline, f"{result['distinct']} of {result['prompts']}")]


def _comparison(result: Mapping[str, Any]) -> Table:
    head = ("server", "alone", "over ours", "four at once", "one step", "one step after a caller left")
    rows: list[Row] = [
        (
            name,
            f"{row['alone_s']:.2f} s",
            f"{row['over_ours']:.2f}",
            f"{row['four_at_once_videos_per_s']:.3f} videos/s",
            *_seconds(row, "one_step_s", "one_step_after_leaving_s"),
        )
        for name, row in result["servers"].items()
    ]
    return head, rows


def _seconds(row: Mapping[str, float], *names: str) -> list[str]:
    return [f"{row[name]:.3g} s" for name in names]


_ENDPOINT_RATIOS = ("stream_over_unary", "previews_over_stream", "previews_over_unary")
TABLES: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "generation": _generation,
    "doors": _endpoints,
    "perf_analyzer": _perf_analyzer,
    "load": _load,
    "mlperf": _mlperf,
    "comparison": _comparison,
}

if __name__ == "__main__":
    sys.exit(main())
