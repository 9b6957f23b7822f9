"""The probes of `python -m wan_t2v.operate`: what of a server they miss, and how long they take."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wan_t2v.operate import probe
from wan_t2v.operate.__main__ import MOST_S, main
from wan_t2v.operate.gpu_fault import mark_gpu_fault
from wan_t2v.operate.run_directory import RunDirectory

MODELS = ("prepare", "denoiser", "text_to_video", "text_to_video_stream", "high_noise_expert")


@pytest.fixture
def run(run_directory: Path) -> RunDirectory:
    return RunDirectory.of_server(run_directory, os.getpid())


@dataclass
class FakeTriton:
    """Triton's HTTP answers, as 2.51 and 2.71 were seen to give them.

    A model answers for its metadata and its configuration while it is loaded. It is ready while it is loaded; on 2.71
    its processes must live, too. `answers` is what the server answers to at all, `counts` how many instances of a model
    are configured, and `bodies` what is answered instead of that.
    """

    is_271: bool
    living: dict[str, set[int]]
    loaded: set[str] = field(default_factory=lambda: set(MODELS))
    answers: set[str] = field(default_factory=lambda: {"/v2/health/live", "/v2/health/ready"})
    url: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    key_for_config: bool = False

    def status(self, path: str) -> int:
        if not path.startswith("/v2/models/"):
            return 200 if path in self.answers else 400
        model, _, question = path.removeprefix("/v2/models/").partition("/")
        if question == "config" and self.key_for_config:
            return 403
        if model not in self.loaded:
            return 404 if self.is_271 and not question else 400
        dead = self.is_271 and model != "text_to_video" and not self.living.get(model)
        return 400 if question == "ready" and dead else 200

    def body(self, path: str) -> bytes:
        model, _, question = path.removeprefix("/v2/models/").partition("/")
        backend = "python" if model in self.counts else "ensemble"
        groups = [{"kind": "KIND_CPU", "count": self.counts.get(model, 1), "gpus": []}]
        told = {"backend": backend, "instance_group": groups} if question == "config" else {"platform": backend}
        return self.bodies.get(path, json.dumps(told).encode())


@contextmanager
def serving_http(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(params=["2.51", "2.71"])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    found = {model: {number} for number, model in enumerate(MODELS) if model != "text_to_video"}
    monkeypatch.setattr(probe, "stub_pids", lambda pid: found)
    fake = FakeTriton(request.param == "2.71", found, counts=dict.fromkeys(found, 1))

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(fake.status(self.path))
            self.end_headers()
            if self.path.startswith("/v2/models/"):
                self.wfile.write(fake.body(self.path))

        def log_message(self, *_: object) -> None:
            pass

    with serving_http(Health) as fake.url:
        yield fake


def asked(what: str, triton: FakeTriton) -> int:
    return main(["probe", what, "--url", triton.url])


def both(triton: FakeTriton) -> tuple[int, int]:
    return asked("ready", triton), asked("live", triton)


def test_a_sound_server_is_ready_and_alive(run: RunDirectory, triton: FakeTriton) -> None:
    assert both(triton) == (0, 0)


def test_the_longest_time_that_is_accepted_is_one_for_a_socket(run: RunDirectory, triton: FakeTriton) -> None:
    assert main(["probe", "live", "--url", triton.url, "--timeout-s", f"{MOST_S}"]) == 0


def test_a_draining_server_is_alive_and_not_ready(run: RunDirectory, triton: FakeTriton, capsys) -> None:
    run.drain()
    assert both(triton) == (1, 0)
    assert "the server is draining" in capsys.readouterr().err


def test_a_server_whose_gpu_failed_is_neither_ready_nor_alive(run: RunDirectory, triton: FakeTriton, capsys) -> None:
    """Triton stays ready and no process dies, while every call fails."""
    assert both(triton) == (0, 0)
    mark_gpu_fault(run, "an illegal memory access was encountered")
    assert both(triton) == (1, 1)
    told = "no call succeeds until the server is started again: an illegal memory access was encountered"
    assert capsys.readouterr().err.count(told) == 2


@pytest.mark.parametrize("model", ["text_to_video", "prepare", "text_to_video_stream"])
def test_a_endpoint_or_its_step_that_is_gone_is_not_ready(
    model: str, run: RunDirectory, triton: FakeTriton, capsys
) -> None:
    assert asked("ready", triton) == 0
    triton.loaded.remove(model)
    assert asked("ready", triton) == 1
    assert f"{model} is not ready" in capsys.readouterr().err


def test_nothing_is_ready_before_the_whole_server_was(run: RunDirectory, triton: FakeTriton) -> None:
    triton.answers.remove("/v2/health/ready")
    assert asked("ready", triton) == 1
    triton.answers.add("/v2/health/ready")
    assert asked("ready", triton) == 0
    triton.answers.remove("/v2/health/ready")  # as each time that an expert is loaded
    assert asked("ready", triton) == 0


def test_a_dead_process_is_neither_ready_nor_alive_and_both_name_it(
    run: RunDirectory, triton: FakeTriton, capsys
) -> None:
    assert asked("ready", triton) == 0
    gone = triton.living.pop("denoiser")
    for what in ("ready", "live"):
        assert asked(what, triton) == 1
        assert capsys.readouterr().err == "error: denoiser has 0 of its 1 Python processes\n"
    triton.living["denoiser"] = gone
    assert both(triton) == (0, 0)


@pytest.mark.parametrize("key_for_config", [False, True])
def test_a_process_that_died_before_any_was_counted_is_missed(
    run: RunDirectory, triton: FakeTriton, capsys, *, key_for_config: bool
) -> None:
    """As one that is killed while other models are loading: Triton 2.51 is ready all the same."""
    triton.key_for_config = key_for_config
    gone = triton.living.pop("denoiser")
    for what in ("ready", "live"):
        assert asked(what, triton) == 1
        assert capsys.readouterr().err == "error: denoiser has 0 of its 1 Python processes\n"
    triton.living["denoiser"] = gone
    assert both(triton) == (0, 0)


@pytest.mark.parametrize("key_for_config", [False, True])
def test_a_process_of_two_that_died_before_any_was_counted_is_missed_unless_the_configuration_needs_a_key(
    run: RunDirectory, triton: FakeTriton, capsys, *, key_for_config: bool
) -> None:
    triton.counts["denoiser"], triton.key_for_config = 2, key_for_config
    if key_for_config:
        assert both(triton) == (0, 0)
    else:
        assert both(triton) == (1, 1)
        assert capsys.readouterr().err == "error: denoiser has 1 of its 2 Python processes\n" * 2
    triton.living["denoiser"] = {11, 12}
    assert both(triton) == (0, 0)


def test_an_instance_group_has_as_many_processes_on_each_of_its_gpus(
    run: RunDirectory, triton: FakeTriton, capsys
) -> None:
    groups = [{"count": 2, "gpus": [0, 1]}, {"count": 1, "gpus": []}]
    config = {"backend": "python", "instance_group": groups}
    triton.bodies["/v2/models/denoiser/config"] = json.dumps(config).encode()
    assert asked("ready", triton) == 1
    assert "denoiser has 1 of its 5 Python processes" in capsys.readouterr().err


def test_a_graph_of_another_backend_has_no_processes(run: RunDirectory, triton: FakeTriton) -> None:
    del triton.living["high_noise_expert"]
    config = {"backend": "tensorrt", "instance_group": [{"count": 1, "gpus": [0]}]}
    triton.bodies["/v2/models/high_noise_expert/config"] = json.dumps(config).encode()
    assert both(triton) == (0, 0)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[]", "answers /v2/models/denoiser/config with something else than a JSON object"),
        (b"<html>", "answers /v2/models/denoiser/config with something else than a JSON object"),
        (b"\xff", "answers /v2/models/denoiser/config with something else than a JSON object"),
        (b'{"backend": "python"}', "has no instance groups in its configuration of denoiser"),
        (b'{"backend": "python", "instance_group": [1]}', "has no instance groups in its configuration of denoiser"),
    ],
)
def test_an_answer_that_is_no_description_of_a_model_is_told_in_one_line(
    body: bytes, told: str, run: RunDirectory, triton: FakeTriton, capsys
) -> None:
    triton.bodies["/v2/models/denoiser/config"] = body
    assert asked("ready", triton) == 1
    assert capsys.readouterr().err == f"error: {triton.url} {told}\n"


def test_an_expert_that_is_swapped_out_is_not_dead(run: RunDirectory, triton: FakeTriton) -> None:
    assert asked("ready", triton) == 0
    del triton.living["high_noise_expert"]
    triton.loaded.remove("high_noise_expert")
    assert both(triton) == (0, 0)


def test_an_expert_that_is_loaded_without_its_process_is_dead(run: RunDirectory, triton: FakeTriton, capsys) -> None:
    assert asked("ready", triton) == 0
    del triton.living["high_noise_expert"]
    for what in ("ready", "live"):
        assert asked(what, triton) == 1
        assert "high_noise_expert is loaded but has 0 of its 1 Python processes" in capsys.readouterr().err


def test_a_question_during_a_repair_asks_for_no_more_processes_afterwards(
    run: RunDirectory, triton: FakeTriton
) -> None:
    """A reloaded model's other process lives on for some seconds beside the new ones."""
    triton.living["high_noise_expert"] = {1, 2}
    assert asked("ready", triton) == 0
    triton.living["high_noise_expert"] = {2, 11, 12}
    assert asked("ready", triton) == 0
    triton.living["high_noise_expert"] = {11, 12}
    assert both(triton) == (0, 0)


def test_an_expert_that_is_being_loaded_is_counted_when_it_is_loaded(run: RunDirectory, triton: FakeTriton) -> None:
    triton.loaded.remove("high_noise_expert")
    triton.living["high_noise_expert"] = {1}
    assert asked("ready", triton) == 0
    triton.loaded.add("high_noise_expert")
    triton.living["high_noise_expert"] = {1, 2}
    assert asked("ready", triton) == 0
    triton.living["high_noise_expert"] = {1}
    assert both(triton) == (1, 1)


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def test_no_proxy_is_asked_about_ones_own_server(
    run: RunDirectory, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert both(triton) == (0, 0)


def test_a_server_that_does_not_answer_is_dead(run: RunDirectory, capsys) -> None:
    assert main(["probe", "live", "--url", "http://127.0.0.1:9", "--timeout-s", "1"]) == 1
    assert "http://127.0.0.1:9 does not answer: Connection refused" in capsys.readouterr().err


def test_a_server_that_hangs_is_dead(run: RunDirectory, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["probe", "live", "--url", url, "--timeout-s", "0.3"]) == 1
    assert f"{url} did not answer within 0.3 s" in capsys.readouterr().err


def test_something_else_at_the_address_is_told(run: RunDirectory, capsys) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    with serving_http(Other) as url:
        assert main(["probe", "live", "--url", url]) == 1
    assert "does not answer: the answer is not HTTP (BadStatusLine)" in capsys.readouterr().err
