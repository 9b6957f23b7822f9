"""What one GPU does with Wan2.2-T2V-A14B, without its weights: one command, under 9 minutes, results as JSON.

    make gpu        or        python -m benchmarks.gpu --out benchmarks/results/gpu.json
    python -m benchmarks.gpu --rehearse --out build/gpu.json        the same on a CPU at small dimensions

Each part is a process of its own with a limit in seconds, so that one that fails or hangs costs no other; the file is
written after each part, and a part that was stopped leaves the rows that it had. `of_matrix_rate` is the share of
this GPU's own best BF16 matrix product that a row reaches: 1 would be the physical floor.
"""

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_timing import Row, rounded

LIMIT_S = 530.0  # of all parts together


@dataclass(frozen=True)
class Part:
    """One kind of measurement: `module:function` that yields rows, and how long it may take."""

    name: str
    source: str
    limit_s: float

    def rows(self) -> Callable[[Any], Iterator[Row]]:
        """The function."""
        module, function = self.source.split(":")
        found: Callable[[Any], Iterator[Row]] = getattr(importlib.import_module(module), function)
        return found


PARTS = (
    Part("matrix_rate", "benchmarks.gpu_torch:matrix_rate", 40),
    Part("attention", "benchmarks.gpu_torch:attention", 60),
    Part("expert_eager", "benchmarks.gpu_torch:expert_eager", 90),
    Part("expert_compiled", "benchmarks.gpu_torch:expert_compiled", 120),
    Part("vae", "benchmarks.gpu_torch:vae", 60),
    Part("triton", "benchmarks.gpu_triton:triton", 90),
    Part("tensorrt", "benchmarks.gpu_tensorrt:tensorrt", 180),  # last: it may take what the others left
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write. Without a GPU nothing is measured, which is said and no failure. Returns an exit code."""
    options = _parser().parse_args(arguments)
    if options.part:
        return _measure_one(options.part, rehearse=options.rehearse, out=options.out)
    reason = None if options.rehearse else missing()
    if reason:
        print(json.dumps({"skipped": reason}))
        return 0
    about = _about(rehearse=options.rehearse)
    out = options.out or Path(f"benchmarks/results/gpu-{about['gpu'].replace(' ', '-')}-{about['date']}.json")
    wanted = [part for part in PARTS if not options.parts or part.name in options.parts]
    parts = measured_parts(wanted, out, about, limit_s=options.limit, extra=["--rehearse"] * options.rehearse)
    print(json.dumps({"out": str(out), **{name: part["status"] for name, part in parts.items()}}))
    return 1 if any(part["status"] == "failed" for part in parts.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, help="file to write (default: benchmarks/results/gpu-<GPU>-<date>.json)")
    parser.add_argument("--parts", nargs="+", choices=names, help="only these (default: all)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at small dimensions: no figures, a test")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)  # how a part's own process is started
    return parser


def missing() -> str | None:
    """Why nothing can be measured here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install torch"
    import torch

    return None if torch.cuda.is_available() else "no GPU: torch.cuda.is_available() is False; --rehearse needs none"


def measured_parts(
    parts: Sequence[Part], out: Path, about: dict[str, Any], *, limit_s: float, extra: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Run each part in a process of its own and write `out` after each."""
    end = time.monotonic() + limit_s
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        limit = min(part.limit_s, end - time.monotonic())
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, *extra]
        found[part.name] = part_in_process(command, limit)
        print(f"{part.name}: {found[part.name]['status']} in {found[part.name]['seconds']} s", file=sys.stderr)
        _write(out, {**about, "parts": _with_rates(found)})
    return found


def part_in_process(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Rows that `command --out FILE` writes, one JSON line each, and how it ended."""
    if limit_s <= 0:
        return {"status": "stopped", "reason": "no time was left", "seconds": 0.0, "rows": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen([*command, "--out", str(rows)], stdout=errors, stderr=errors)
            try:
                status = "" if process.wait(limit_s) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped"
            finally:
                process.kill()
                process.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    found = [json.loads(line) for line in lines]
    reason = {"stopped": f"after its limit of {limit_s:.0f} s", "failed": (said or [""])[-1]}.get(status, "")
    seconds = round(time.monotonic() - started, 1)
    return {"status": status or status_of(found), "reason": reason, "seconds": seconds, "rows": found}


def status_of(rows: Sequence[Row]) -> str:
    """Of a part that came to its end: `measured`, `partly`, or, if no row has a figure, `failed` or `skipped`."""
    without = [row for row in rows if "error" in row or "skipped" in row]
    if len(without) < len(rows):
        return "partly" if without else "measured"
    return "skipped" if rows and all("skipped" in row for row in rows) else "failed"


def _measure_one(name: str, *, rehearse: bool, out: Path) -> int:
    """A part's own process: rows are written as they come."""
    from benchmarks.gpu_scale import full_scale, rehearsal_scale

    part = next(part for part in PARTS if part.name == name)
    with out.open("w", encoding="utf-8") as file:
        for row in part.rows()(rehearsal_scale() if rehearse else full_scale()):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


def _with_rates(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each row with its rate, and with its share of the best matrix product of the same GPU."""
    products = [row for row in parts.get("matrix_rate", {}).get("rows", []) if "seconds" in row]
    best = max((row["flops"] / row["seconds"] for row in products), default=None)

    def rated(row: Row) -> Row:
        if "flops" not in row or "seconds" not in row:
            return row
        rate = row["flops"] / row["seconds"]
        share = {} if best is None else {"of_matrix_rate": rounded(rate / best)}
        return {**row, "tflop_per_s": rounded(rate / 1e12), **share}

    return {name: {**part, "rows": [rated(row) for row in part["rows"]]} for name, part in parts.items()}


def _about(*, rehearse: bool) -> dict[str, Any]:
    from benchmarks.machine import provenance

    gpu: dict[str, Any] = {"gpu": "none, a rehearsal on the CPU: these are no figures"}
    import torch

    if not rehearse:
        found = torch.cuda.get_device_properties(0)
        gpu = {"gpu": found.name, "gpu_memory_gib": round(found.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**gpu, "date": date, "rehearsal": rehearse, "torch": torch.__version__, **provenance()}


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
