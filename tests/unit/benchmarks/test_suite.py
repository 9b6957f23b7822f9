"""All benchmarks in one command: what is kept of each, whatever becomes of it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks import suite
from benchmarks.suite import BENCHMARKS, last_json_line, main, run_benchmark, slug
from tests.child_process import child_process
from tests.waiting import LIMIT_S, wait_until

SUMMARY = {"count": 3, "mean": 1.0, "p50": 1.0, "p90": 2.0, "p99": 2.0, "max": 2.0}
LEVEL = {
    "requests": 3,
    "responses": 6,
    "videos_per_s": 2.0,
    "latency_s": SUMMARY,
    "first_response_s": SUMMARY,
    "first_to_last_s": SUMMARY,
    "step_gap_s": None,
}
SERVER = {
    "alone_s": 3.0,
    "over_ours": 1.0,
    "four_at_once_videos_per_s": 0.3,
    "one_step_s": 0.4,
    "one_step_after_leaving_s": 0.5,
    "psnr_to_ours_db": 100.0,
}
RESULTS: dict[str, dict[str, Any]] = {
    "generation": {"triton_s": 3.0, "diffusers_s": 6.0, "ratio": 0.5, "outside_graphs": 0.05, "rounds": 1},
    "doors": {
        "unary_s": 3.0,
        "stream_s": 3.0,
        "previews_s": 3.0,
        "stream_over_unary": 1.0,
        "previews_over_stream": 1.01,
        "previews_over_unary": 1.01,
        "four_at_once": 1.0,
        "rounds": 1,
    },
    "perf_analyzer": {
        "requests": 3,
        "unary": {"concurrency_1": LEVEL},
        "stream": {"concurrency_1": LEVEL, "concurrency_2": LEVEL},
    },
    "load": {
        "requests": 4,
        "rate_per_s": 0.5,
        "seed": 0,
        "finished": 3,
        "cancelled": 1,
        "refused": 0,
        "failed": 0,
        "videos_per_s": 0.4,
        "latency_s": {"64x64x17": SUMMARY, "96x96x17": None},
        "queue_wait_s": SUMMARY,
        "step_gap_s": SUMMARY,
        "late_s": 0.001,
    },
    "mlperf": {
        "official": False,
        "differs": ["prompts"],
        "size": "64x64x17",
        "steps": 20,
        "guidance": [4.0, 3.0],
        "single_stream": {"queries": 3, "p90_s": 2.0, "latency_s": SUMMARY},
        "offline": {"samples": 4, "at_once": 16, "samples_per_s": 0.9},
        "prompts": 4,
        "distinct": 4,
    },
    "comparison": {
        "servers": dict.fromkeys(("ours", "pytriton", "fastapi"), SERVER),
        "rounds": 1,
        "diffusers_threads": 2,
    },
}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture(scope="module")
def schema(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "benchmarks/results.schema.json").read_bytes())
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`run(name=code, ...)`: the suite with these programs as its parts; exit code, results and folder."""

    def run(**programs: str) -> tuple[int, dict[str, Any], Path]:
        parts = [part for part in BENCHMARKS if part.name in programs]
        monkeypatch.setattr(suite, "BENCHMARKS", parts)
        monkeypatch.setattr(suite.Benchmark, "command", lambda part, repository, quick: python(programs[part.name]))
        code = main(["--out", str(tmp_path), "--quick"])
        [file] = tmp_path.glob("*.json")
        return code, json.loads(file.read_bytes()), file

    return run


def test_every_part_gives_what_the_schema_the_plot_and_the_tables_want(
    run: Any, schema: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.tables import main as tables

    assert RESULTS.keys() == {part.name for part in BENCHMARKS}
    code, results, file = run(**{name: f"print({json.dumps(json.dumps(found))})" for name, found in RESULTS.items()})
    jsonschema.validate(results, schema)
    assert code == 0
    assert {name: part["result"] for name, part in results["parts"].items()} == RESULTS
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["out"] == str(file)
    assert tables([str(file)]) == 0
    printed = capsys.readouterr().out
    assert all(f"**{name}**" in printed for name in RESULTS)
    assert "these are no figures" in printed
    assert "| fastapi | 3.00 s | 1.00 | 0.300 videos/s | 0.4 s | 0.5 s |" in printed


def test_a_part_that_fails_costs_no_other_and_is_told(run: Any, schema: dict[str, Any]) -> None:
    load = f"print({json.dumps(json.dumps(RESULTS['load']))})"
    code, results, _ = run(generation="raise SystemExit(3)", load=load)
    jsonschema.validate(results, schema)
    assert code == 1
    assert results["parts"]["generation"]["reason"] == "exit code 3"
    assert results["parts"]["load"]["status"] == "measured"


def test_a_part_that_hangs_is_stopped(tmp_path: Path) -> None:
    tidies = "import time\ntry:\n    time.sleep(60)\nfinally:\n    print('tidied up')"
    found = run_benchmark(python(tidies), tmp_path / "log", limit_s=3.0)
    assert found["status"] == "stopped" and "limit of 3 s" in found["reason"]
    assert (tmp_path / "log").read_text() == "tidied up\n"
    assert found["seconds"] < 60


def test_a_part_whose_last_line_is_no_object_failed(tmp_path: Path) -> None:
    found = run_benchmark(python("print('[1]')"), tmp_path / "log", limit_s=30.0)
    assert (found["status"], found["result"]) == ("failed", None)
    assert last_json_line('table\n{"a": 1}\n\n') == {"a": 1}
    assert last_json_line("") is last_json_line("no JSON") is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("parts", "mlperf", "result", "official"), True),
        (("parts", "doors", "result", "four_at_once"), -1),
        (("parts", "generation", "status"), "fine"),
        (("about", "commit"), None),
        (("version",), 2),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str, ...], value: object, schema: dict[str, Any]) -> None:
    about = {"date": "2026-11-23", "machine": "m", "load": 0.1, "commit": "c", "quick": False}
    parts = {n: {"status": "measured", "reason": "", "seconds": 1, "result": dict(r)} for n, r in RESULTS.items()}
    results: dict[str, Any] = {"version": 1, "about": about, "seconds": 1, "parts": parts}
    jsonschema.validate(results, schema)
    place = results
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(results, schema)


def test_results_that_are_committed_fit_the_schema_and_are_no_rehearsal(root: Path, schema: dict[str, Any]) -> None:
    for path in (root / "benchmarks/results").glob("2*.json"):
        results = json.loads(path.read_bytes())
        jsonschema.validate(results, schema)
        assert not results["about"]["quick"], path
        assert path.with_suffix(".png").exists(), path


def test_a_machines_name_becomes_part_of_a_file_name() -> None:
    assert slug("AMD EPYC (2.5 GHz), 2 cores") == "amd-epyc-2-5-ghz-2-cores"


def test_everything_is_done_in_a_quarter_of_an_hour() -> None:
    assert sum(part.expected_s for part in BENCHMARKS) < 15 * 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_the_suite_lets_its_part_clean_up_first(number: signal.Signals, tmp_path: Path) -> None:
    part = (
        "import pathlib, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n"
        "    (folder / 'started').touch()\n"
        "    while True: time.sleep(0.05)\n"
        "except KeyboardInterrupt:\n"
        "    (folder / 'cleaned-up').touch()\n"
    )
    program = (
        "import signal, sys\n"
        "from benchmarks import suite\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this test may be run by nohup\n"
        f"suite.Benchmark.command = lambda part, repository, quick: [sys.executable, '-c', {part!r}]\n"
        f"sys.exit(suite.main(['--out', {str(tmp_path)!r}, '--quick', '--parts', 'load']))\n"
    )
    with child_process(python(program), stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_until((tmp_path / "started").exists)
            running.send_signal(number)
            errors = running.communicate(timeout=LIMIT_S)[1]
        finally:
            running.kill()
    assert running.returncode == 130
    assert (tmp_path / "cleaned-up").exists()
    assert errors.endswith(f"stopped; the parts that had ended are in {tmp_path}\n")
