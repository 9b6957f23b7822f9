"""The GPU benchmark, rehearsed on the CPU: the same code at small dimensions, so that it runs at first try on a GPU."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import results, run
from benchmarks.gpu.timing import Row
from tests.child_process import child_process
from tests.waiting import wait_until

WRITES_ONE_ROW = "import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('{\"x\": 1}\\n')"


@pytest.mark.parametrize(
    ("then", "limit_s", "status", "reason"),
    [
        ("", 60, "measured", ""),
        ("; sys.exit('no diffusers')", 60, "failed", "no diffusers"),
        ("; import time; time.sleep(600)", 5, "stopped", "after its limit of 5 s"),
    ],
)
def test_a_part_keeps_its_rows_however_it_ends(then: str, limit_s: float, status: str, reason: str) -> None:
    part = run.part_in_process([sys.executable, "-c", WRITES_ONE_ROW + then], limit_s)
    assert (part["status"], part["reason"]) == (status, reason)
    if limit_s > 5:
        assert part["rows"] == [{"x": 1}]


def test_the_command_writes_results_after_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results/gpu.json"
    assert run.main(["--rehearse", "--parts", "matrix_rate", "attention", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "matrix_rate": "measured", "attention": "partly"}
    results = json.loads(out.read_text())
    assert results["rehearsal"] is True and results["date"] and "no figures" in results["gpu"]
    assert max(row["of_matrix_rate"] for row in results["parts"]["matrix_rate"]["rows"]) == 1
    assert "of_matrix_rate" in results["parts"]["attention"]["rows"][0]


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([{"seconds": 1}, {"seconds": 2}], "measured"),
        ([{"seconds": 1}, {"error": "no memory"}], "partly"),
        ([{"skipped": "not installed"}, {"error": "no memory"}], "failed"),
        ([{"skipped": "not installed"}] * 2, "skipped"),
        ([], "failed"),
    ],
)
def test_a_part_is_called_measured_only_if_it_was(rows: list[Row], status: str) -> None:
    assert run.status_of(rows) == status


def test_when_time_is_up_the_other_parts_are_named_and_not_run(tmp_path: Path) -> None:
    parts = run.measure_parts(run.PARTS[1:3], tmp_path / "out.json", {}, limit_s=0)
    assert [part["status"] for part in parts.values()] == ["stopped", "stopped"]
    assert json.loads((tmp_path / "out.json").read_text())["parts"] == parts


@pytest.mark.parametrize(("gpu_name", "kept"), [("NVIDIA H100", True), ("NVIDIA H200", False)])
def test_a_later_run_keeps_the_parts_of_the_same_gpu(gpu_name: str, kept: bool, tmp_path: Path) -> None:
    out, about = tmp_path / "out.json", {"gpu": "NVIDIA H100", "rehearsal": False}
    earlier = {"status": "measured", "reason": "", "rows": [{"seconds": 1.0}]}
    out.write_text(json.dumps({**about, "parts": {"server": earlier}}))
    run.measure_parts(run.PARTS[1:2], out, {**about, "gpu": gpu_name}, limit_s=0)
    assert ("server" in json.loads(out.read_text())["parts"]) == kept


def test_the_table_has_a_line_for_every_row() -> None:
    row = {"size": "720x1280x81", "error": "RuntimeError: no memory", "traceback": ["far too long"]}
    lines = results.table({"vae": {"status": "failed", "reason": "", "rows": [row]}}).splitlines()
    assert lines == ["vae: failed ", "  size=720x1280x81 error=RuntimeError: no memory"]


def test_a_part_that_is_stopped_may_stop_its_server_first(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    code = (
        "import signal, sys, time, pathlib\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"try:\n    open(sys.argv[-1], 'w').write('{{}}\\n'); time.sleep(600)\n"
        f"finally:\n    pathlib.Path({str(ended)!r}).touch()"
    )
    assert run.part_in_process([sys.executable, "-c", code], 5)["status"] == "stopped"
    assert ended.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_part_ends_with_a_benchmark_that_is_stopped(number: signal.Signals, root: Path, tmp_path: Path) -> None:
    part = (
        "import pathlib, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n    (folder / 'started').touch()\n    while True: time.sleep(0.05)\n"
        "finally:\n    (folder / 'ended').touch()"
    )
    program = (
        "import signal, sys\nfrom benchmarks.gpu import run\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this test may be run by nohup\n"
        "run._about, in_process = lambda rehearse: {}, run.part_in_process\n"
        f"run.part_in_process = lambda *_, **__: in_process([sys.executable, '-c', {part!r}], 600)\n"
        f"run.main(['--rehearse', '--parts', 'vae', '--out', {str(tmp_path / 'out.json')!r}])\n"
    )
    with child_process([sys.executable, "-c", program], cwd=root, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until((tmp_path / "started").exists)
            running.send_signal(number)
            running.wait(60)
        finally:
            running.kill()
    assert (tmp_path / "ended").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_part_may_run_as_a_user_without_rights(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[-1], 'w').write('{\"uid\": %d}\\n' % os.getuid())"
    part = run.part_in_process([_python_for_all(), "-c", code], 60, user=run.USER)
    assert part["rows"] == [{"uid": run.USER}], part


def _python_for_all() -> str:
    """An interpreter that every user can start; this environment's may lie where only its owner may look."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def test_all_parts_together_stay_under_nine_minutes() -> None:
    assert run.LIMIT_S < 540


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--out", str(tmp_path / "out.json")]) == 0
    assert "no GPU" in json.loads(capsys.readouterr().out)["skipped"]
    assert not (tmp_path / "out.json").exists()


def test_whole_videos_are_measured_only_by_name() -> None:
    """They take longer than all other parts may together."""
    everything = [part.name for part in run.PARTS]
    assert [part.name for part in run.wanted_parts(None)] == [name for name in everything if name != "whole"]
    assert [part.name for part in run.wanted_parts(["whole", "vae"])] == ["vae", "whole"]
