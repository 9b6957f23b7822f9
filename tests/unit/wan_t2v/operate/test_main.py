"""`python -m wan_t2v.operate`: drain, status and what it refuses, with a server that is not there."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from wan_t2v.operate import drain
from wan_t2v.operate.__main__ import main
from wan_t2v.operate.run_directory import FINISHING, RUNNING, RunDirectory, SlotInfo


@pytest.fixture
def run(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(drain, "POLL_S", 0.05)
    monkeypatch.setattr(drain, "SETTLE_S", 0.1)
    return RunDirectory.of_server(run_directory, os.getpid())


def test_an_empty_server_is_drained_at_once(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--wait-s", "5"]) == 0
    assert run.draining
    assert capsys.readouterr().out.splitlines()[-1] == "empty: the server can be stopped"
    assert main(["undrain"]) == 0
    assert not run.draining


def test_it_waits_for_what_runs_and_tells_of_it(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    place = run.acquire(RUNNING, SlotInfo("text_to_video", left_s=40.0, reported_at=time.monotonic()))
    threading.Timer(0.3, place.free).start()
    began = time.monotonic()
    assert main(["drain", "--wait-s", "10"]) == 0
    assert time.monotonic() - began >= 0.3
    told = capsys.readouterr().out
    assert "draining: 1 in flight, 0 queued, 0 finishing, about 40 s left of the longest" in told


@pytest.mark.parametrize("what", ["running", "finishing"])
def test_it_gives_up_at_the_limit_and_leaves_the_switch_on(
    what: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run.acquire(RUNNING, SlotInfo("text_to_video")) if what == "running" else run.mark(FINISHING, "1")
    assert main(["drain", "--wait-s", "0.2"]) == 1
    assert "not empty after 0.2 s" in capsys.readouterr().out
    assert run.draining
    del place


@pytest.mark.parametrize("command", ["drain --wait-s", "probe live --timeout-s"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300", "a minute", ""])
def test_a_time_that_never_ends_or_is_none_is_refused(
    command: str, value: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    *words, option = command.split()
    with pytest.raises(SystemExit) as end:
        main([*words, f"{option}={value}"])
    refused = f"argument {option}: got {value!r}; accepted: a number of seconds from 0 to 1000000\n"
    assert end.value.code == 2 and capsys.readouterr().err.endswith(refused)
    assert not run.draining


def test_status_is_one_json_object(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"draining": False, "in_flight": 0, "queued": 0, "finishing": 0, "left_s": None}


def test_a_directory_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--run-directory", str(tmp_path / "none")]) == 1
    assert "there is no run directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "https://127.0.0.1:8000", "http://", "http://x:y", "http://x:99999", "http://a b/\n"]
)
def test_an_address_that_is_none_is_refused(url: str, run: RunDirectory, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["probe", "live", "--url", url])
    assert "accepted: http://HOST:PORT" in capsys.readouterr().err


def test_it_needs_the_standard_library_alone() -> None:
    import subprocess
    import sys

    code = "import sys, wan_t2v.operate.__main__\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "numpy", "psutil", "tritonclient"}
