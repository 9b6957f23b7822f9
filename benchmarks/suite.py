"""Run all benchmarks, and write a results file and its plot.

    make bench-all        or        python -m benchmarks.suite --out out/bench        QUICK=1 or --quick for a rehearsal

Each benchmark is its own command with a time limit, so one that fails or hangs does not affect the others. The results,
`<date>-<machine>.json` with machine and commit, are written after each part, and the plot at the end. The file's schema
is `benchmarks/results.schema.json`. The output of each part is kept beside them.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import provenance
from benchmarks.plot import write_plot
from embedded.process.stop_signals import interrupted_by_signals
from export.atomic import write_atomically

VERSION = 1  # of the results file's format
STOP_LIMIT_S = 90.0  # for a part that was interrupted


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its name in the results, its module, its seconds on two cores, its options for a rehearsal."""

    name: str
    module: str
    expected_s: float
    quick: tuple[str, ...]

    @property
    def limit_s(self) -> float:
        """Seconds after which the benchmark is stopped. Includes time for the export and for a slow machine."""
        return 120 + 3 * self.expected_s

    def command(self, repository: Path, *, quick: bool) -> list[str]:
        """Return the benchmark's command line."""
        options = ["--repository", str(repository), *(self.quick if quick else ())]
        return [sys.executable, "-m", f"benchmarks.{self.module}", *options]


BENCHMARKS = (
    Benchmark("generation", "latency.generation", 110, ("--rounds", "1", "--steps", "4")),
    Benchmark("doors", "latency.endpoints", 180, ("--rounds", "1", "--concurrent-rounds", "1", "--steps", "4")),
    Benchmark("perf_analyzer", "load.perf_analyzer", 80, ("--requests", "2", "--steps", "4")),
    Benchmark("load", "load.run", 90, ("--requests", "10", "--steps", "4", "--rate", "4")),
    Benchmark("mlperf", "load.mlperf", 60, ("--queries", "3", "--samples", "4")),
    Benchmark("comparison", "baselines.comparison", 240, ("--rounds", "1", "--steps", "4")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and write the results. Returns an exit code: 1 if one gave no result, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with interrupted_by_signals():  # so that the part that runs ends too
            return _run_all(options)
    except KeyboardInterrupt:
        print(f"stopped; the parts that had ended are in {options.out}", file=sys.stderr)
        return 130


def _run_all(options: argparse.Namespace) -> int:
    about = {**provenance(), "quick": options.quick}
    out = options.out / f"{about['date']}-{slug(about['machine'])}{'-quick' if options.quick else ''}.json"
    wanted = [benchmark for benchmark in BENCHMARKS if not options.parts or benchmark.name in options.parts]
    if not options.quick:
        print(f"about {sum(benchmark.expected_s for benchmark in wanted) / 60:.0f} minutes", file=sys.stderr)
    started, outcomes = time.monotonic(), {}
    for index, benchmark in enumerate(wanted, start=1):
        print(f"[{index}/{len(wanted)}] {benchmark.name} ...", file=sys.stderr)
        command = benchmark.command(options.repository, quick=options.quick)
        outcomes[benchmark.name] = run_benchmark(
            command, options.out / f"{benchmark.name}.log", limit_s=benchmark.limit_s
        )
        print(f"[{index}/{len(wanted)}] {benchmark.name}: {_describe(outcomes[benchmark.name])}", file=sys.stderr)
        results = {
            "version": VERSION,
            "about": about,
            "seconds": round(time.monotonic() - started, 1),
            "parts": outcomes,
        }
        with write_atomically(out) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plot = out.with_suffix(".png")
    write_plot(plot, results)
    statuses = {name: part["status"] for name, part in outcomes.items()}
    print(json.dumps({"out": str(out), "plot": str(plot), "seconds": results["seconds"], **statuses}))
    return 0 if set(statuses.values()) == {"measured"} else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--parts", nargs="+", choices=names, help="only these (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="send few requests, as a rehearsal; its figures mean nothing"
    )
    return parser


def slug(machine: str) -> str:
    """Convert a machine's name to a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def run_benchmark(command: Sequence[str], log: Path, *, limit_s: float) -> dict[str, Any]:
    """Run a command that prints one JSON line last. Returns its status, reason, seconds and that JSON object."""
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    # In its own session, so that Ctrl-C reaches it only through us, as one SIGINT.
    with (
        log.open("w", encoding="utf-8") as printed,
        subprocess.Popen(command, stdout=printed, start_new_session=True) as process,
    ):
        try:
            code = process.wait(limit_s)
            status, reason = ("measured", "") if code == 0 else ("failed", f"exit code {code}")
        except subprocess.TimeoutExpired:
            status, reason = "stopped", f"after its limit of {limit_s:.0f} s"
            _interrupt(process)
        except BaseException:
            _interrupt(process)
            raise
    result = last_json_line(log.read_text(encoding="utf-8"))
    if status == "measured" and result is None:
        status, reason = "failed", "its last line is no JSON object"
    return {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 1), "result": result}


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGINT, so that the command cleans up, and kill it after a limit. Its servers end with it.

    A second Ctrl-C kills it immediately.
    """
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    except BaseException:
        process.kill()
        raise


def last_json_line(printed: str) -> dict[str, Any] | None:
    """Parse the JSON object in the last line. None if there is none."""
    lines = printed.strip().splitlines()
    try:
        outcomes = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return outcomes if isinstance(outcomes, dict) else None


def _describe(part: dict[str, Any]) -> str:
    reason = f" ({part['reason']})" if part["reason"] else ""
    return f"{part['status']}{reason} in {part['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
