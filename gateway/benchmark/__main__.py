"""`make bench-gateway`: measure the latency that the gateway adds to a video, and its throughput, as JSON and plot."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway.benchmark import measure
from gateway.benchmark.database_cost import database_cost, idle_cost, scans
from gateway.benchmark.plot import plot

GOALS_MS = {"post_to_first_step_event": 50, "last_frame_to_completed_event": 150, "get": 50}


def main() -> int:
    """Run all measurements. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway.benchmark", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench-gateway"), help="folder (default: %(default)s)")
    parser.add_argument("--video", type=Path, help="MP4 that every job stores (default: a small one)")
    parser.add_argument("--quick", action="store_true", help="short trial run without meaningful figures")
    options = parser.parse_args()
    _stop_at_signals()
    video, part = measure.video_of(options.video), 20 if options.quick else 1
    load_before = os.getloadavg()[0]
    result: dict[str, Any] = {"machine": _machine(), "load_before": round(load_before, 2), "quick": options.quick}
    result["goals_ms"] = GOALS_MS
    for name, run in {
        "added_to_a_video": lambda: measure.added_to_a_video(video, 100 // part),
        "queue_alone": lambda: measure.queue_alone(video, 400 // part),
        "reading": lambda: measure.reading(10_000, 1000 // part),
        "database_cost": lambda: database_cost(video, 20 // min(part, 5), 40),
        "idle_cost": lambda: idle_cost(20 / part),
        "scans": lambda: scans(100_000 // part),
        "many_streams": lambda: measure.many_streams(video, 200 // part),
    }.items():
        result[name] = run()
        print(name, json.dumps(result[name]), file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gateway.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, options.out / "gateway.png")
    print(options.out / "gateway.json")
    return 0


def _stop_at_signals() -> None:
    """End by SystemExit at SIGTERM and SIGHUP, so that the database is stopped. An ignored one (nohup) stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def _machine() -> dict[str, Any]:
    command = [shutil.which("git") or "git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False)
    model = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": model[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    sys.exit(main())
