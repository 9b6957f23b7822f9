"""`python -m wan_t2v.operate`: drain, status and the probes, with a server that is not there."""

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wan_t2v.operate import drain, probe
from wan_t2v.operate.__main__ import main
from wan_t2v.operate.run_directory import FINISHING, RUNNING, Claim, RunDirectory

MODELS = ("prepare", "denoiser", "text_to_video", "text_to_video_stream", "high_noise_expert")


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
    place = run.take(RUNNING, Claim("text_to_video", left_s=40.0, told=time.monotonic()))
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
    place = run.take(RUNNING, Claim("text_to_video")) if what == "running" else run.mark(FINISHING, "1")
    assert main(["drain", "--wait-s", "0.2"]) == 1
    assert "not empty after 0.2 s" in capsys.readouterr().out
    assert run.draining
    del place


def test_status_is_one_json_object(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"draining": False, "in_flight": 0, "queued": 0, "finishing": 0, "left_s": None}


def test_a_directory_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--run-directory", str(tmp_path / "none")]) == 1
    assert "there is no run directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.fixture
def triton() -> Iterator[tuple[str, set[str]]]:
    """Triton's health answers, and the set of what is ready."""
    ready = {"live", "server", *MODELS}

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = {"/v2/health/ready": "server", "/v2/health/live": "live"}.get(self.path, self.path.split("/")[-2])
            self.send_response(200 if name in ready else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", ready
        server.shutdown()


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """The processes of the server."""
    found = {model: {number} for number, model in enumerate(MODELS) if model != "text_to_video"}
    monkeypatch.setattr(probe, "stub_pids", lambda pid: found)
    return found


Triton = tuple[str, set[str]]


def asked(what: str, triton: Triton) -> int:
    return main(["probe", what, "--url", triton[0]])


def test_a_sound_server_is_ready_and_alive(run: RunDirectory, triton: Triton, living: dict) -> None:
    assert (asked("ready", triton), asked("live", triton)) == (0, 0)


def test_a_draining_server_is_alive_and_not_ready(run: RunDirectory, triton: Triton, living: dict, capsys) -> None:
    run.drain()
    assert (asked("ready", triton), asked("live", triton)) == (1, 0)
    assert "the server is draining" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["text_to_video", "prepare", "text_to_video_stream"])
def test_a_door_or_its_step_that_is_gone_is_not_ready(
    model: str, run: RunDirectory, triton: Triton, living: dict, capsys
) -> None:
    assert asked("ready", triton) == 0
    triton[1].remove(model)
    assert asked("ready", triton) == 1
    assert f"{model} is not ready" in capsys.readouterr().err


def test_nothing_is_ready_before_the_whole_server_was(run: RunDirectory, triton: Triton, living: dict) -> None:
    triton[1].remove("server")
    assert asked("ready", triton) == 1
    triton[1].add("server")
    assert asked("ready", triton) == 0
    triton[1].remove("server")  # as each time that an expert is loaded
    assert asked("ready", triton) == 0


def test_a_dead_process_is_neither_though_triton_calls_the_model_ready(
    run: RunDirectory, triton: Triton, living: dict, capsys
) -> None:
    assert asked("ready", triton) == 0
    gone = living.pop("denoiser")
    assert (asked("ready", triton), asked("live", triton)) == (1, 1)
    assert "denoiser has 0 of its 1 Python processes" in capsys.readouterr().err
    living["denoiser"] = gone
    assert (asked("ready", triton), asked("live", triton)) == (0, 0)


def test_an_expert_that_is_swapped_out_is_not_dead(run: RunDirectory, triton: Triton, living: dict) -> None:
    assert asked("ready", triton) == 0
    del living["high_noise_expert"]
    triton[1].remove("high_noise_expert")
    assert (asked("ready", triton), asked("live", triton)) == (0, 0)
    triton[1].add("high_noise_expert")
    assert (asked("ready", triton), asked("live", triton)) == (1, 1)


def test_a_server_that_does_not_answer_is_dead(run: RunDirectory, living: dict, capsys) -> None:
    assert main(["probe", "live", "--url", "http://127.0.0.1:9", "--timeout-s", "1"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_it_needs_the_standard_library_alone() -> None:
    import subprocess
    import sys

    code = "import sys, wan_t2v.operate.__main__\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "numpy", "psutil", "tritonclient"}
