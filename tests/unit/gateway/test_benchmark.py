"""`make bench-gateway` measures what it says, and draws it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.benchmark import measure
from gateway.benchmark.plot import plot
from tests.child_process import child_process

SPREAD = {"p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}


def test_what_the_gateway_adds_is_measured_between_two_moments_of_each_video() -> None:
    result = measure.added_to_a_video(measure.video_of(None), 2)
    before, after = result["post_to_first_step_event"], result["last_frame_to_completed_event"]
    assert result["videos"] == 2 and 0 < result["post_to_server_called"]["p50_ms"] < before["p50_ms"]
    assert 0 < after["p50_ms"] <= after["p99_ms"] <= after["max_ms"]


def test_the_picture_holds_every_figure(tmp_path: Path) -> None:
    result: dict[str, Any] = {
        "quick": True,
        "goals_ms": {"post_to_first_step_event": 50, "last_frame_to_completed_event": 150, "get": 50},
        "added_to_a_video": {"post_to_first_step_event": SPREAD, "last_frame_to_completed_event": SPREAD},
        "queue_alone": {"created_per_s": 1.0, "done_per_s": 2.0},
        "reading": {"records": 10_000, "get_one": SPREAD, "get_list": SPREAD},
        "many_streams": {"streams": 200, "step_to_event": SPREAD, "get_meanwhile": SPREAD},
    }
    plot(result, tmp_path / "gateway.png")
    assert (tmp_path / "gateway.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_on_scale_tells_the_figures_of_the_last_run(root: Path) -> None:
    path = max((root / "gateway/benchmark/results").glob("*.json"))
    found, page = json.loads(path.read_text()), (root / "docs/design/scale.md").read_text()
    added, read, streams = found["added_to_a_video"], found["reading"], found["many_streams"]
    assert not found["quick"] and found["load_before"] < 1, "a quiet machine"
    for what, spread in {
        "from POST to the first step's event": added["post_to_first_step_event"],
        "from the last frame to `completed`": added["last_frame_to_completed_event"],
        "GET of a video, 10,000 on record": read["get_one"],
        "GET of a list, 10,000 on record": read["get_list"],
        "from a step to its event in 200 streams": streams["step_to_event"],
        "GET of a video while 200 streams are open": streams["get_meanwhile"],
    }.items():
        assert f"| {what} | {spread['p50_ms']:.2g} ms | {spread['p99_ms']:.2g} ms |" in page
    queue, cost, idle, scans = (found[part] for part in ("queue_alone", "database_cost", "idle_cost", "scans"))
    for told in (
        f"{queue['created_per_s']:.0f} taken and {queue['done_per_s']:.0f} done per second",
        f"counted | {cost['transactions_per_video']} |",
        f"| {cost['log_bytes_per_video'] / 1e3:.0f} kB, {cost['log_bytes_per_step'] / 1e3:.1f} kB a step |",
        f"| {cost['events_per_video']:.0f} of {cost['bytes_per_event']} bytes, indexes counted |",
        f"idle | {idle['connections']} |",
        f"idle | {idle['transactions_per_s'] + 1e-9:.1f} a second |",
        f"| {idle['stream_of_a_waiting_job_transactions_per_s']:.1f} transactions a second |",
        f"| {scans['keeper_ms']:.0f} ms, every 60 s in every gateway |",
        f"| {scans['metrics_ms']:.0f} ms, in every gateway |",
        f"results/{path.name}",
    ):
        assert told in page, told


BENCHMARK = """
import signal, sys, time
from gateway.benchmark import __main__ as benchmark

def measure(video):
    try:
        print("the database runs", flush=True)
        while True:
            time.sleep(0.05)
    finally:
        print("it was stopped", flush=True)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this test may be run by nohup
benchmark.measure.video_of = measure
sys.argv = ["benchmark"]
benchmark.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_database_too(number: signal.Signals, root: Path) -> None:
    command = [sys.executable, "-c", BENCHMARK]
    with child_process(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "the database runs\n"
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "it was stopped\n")
