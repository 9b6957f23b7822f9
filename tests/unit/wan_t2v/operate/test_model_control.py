"""Model control over HTTP, against a server that answers as Triton 2.51 was seen to."""

import json
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wan_t2v.operate.model_control import FILE, KEY_VARIABLE, ControlAddress, ModelControl, ModelControlError

INDEX = [
    {"name": "denoiser", "version": "1", "state": "READY"},
    {"name": "high_noise_expert", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    {"name": "low_noise_expert", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    {"name": "low_noise_expert", "version": "2", "state": "READY"},
    {"name": "vae_decoder", "version": "1", "state": "UNLOADING"},
    {"name": "never_loaded"},
]
RESTRICTED = "This API is restricted, expecting header 'admin-key'"


class Answers(BaseHTTPRequestHandler):
    key = ""
    text: str | None = None
    paths: list[str] = []

    def do_POST(self) -> None:
        self.paths.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        status, text = 200, json.dumps(INDEX) if self.path.endswith("/index") else ""
        if self.key and self.headers.get("admin-key") != self.key:
            status, text = 403, json.dumps({"error": RESTRICTED})
        elif self.text is not None:
            status, text = 400, self.text
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(run_directory: Path, *, key: str = "", text: str | None = None, told: str = "") -> Iterator[list[str]]:
    """A server whose run directory tells `told` as its key; yields the paths that it was asked for."""
    handler = type("Handler", (Answers,), {"key": key, "text": text, "paths": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ControlAddress("127.0.0.1", server.server_port, told).publish(run_directory)
    try:
        yield handler.paths
    finally:
        server.shutdown()
        server.server_close()


def test_the_state_is_that_of_the_version_that_serves(tmp_path: Path) -> None:
    names = ("denoiser", "high_noise_expert", "low_noise_expert", "vae_decoder", "never_loaded", "unknown")
    with serving(tmp_path):
        states = [ModelControl(tmp_path).state(name) for name in names]
    assert states == ["READY", "UNAVAILABLE", "READY", "UNLOADING", "UNAVAILABLE", "UNAVAILABLE"]


def test_loading_and_unloading_reach_the_server_with_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, key="secret", told="secret") as paths:
        ModelControl(tmp_path).load("low_noise_expert")
        ModelControl(tmp_path).unload("low_noise_expert")
    assert paths == [f"/v2/repository/models/low_noise_expert/{what}" for what in ("load", "unload")]


def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(tmp_path):
        assert ModelControl(tmp_path).state("denoiser") == "READY"


def test_without_the_key_the_remedy_is_told_and_nothing_passes_by_itself(tmp_path: Path) -> None:
    with (
        serving(tmp_path, key="secret"),
        pytest.raises(ModelControlError, match=f"{FILE}.*{RESTRICTED}") as error_response,
    ):
        ModelControl(tmp_path).load("low_noise_expert")
    assert not error_response.value.passes and "secret" not in str(error_response.value)


@pytest.mark.parametrize(
    ("text", "passes", "told"),
    [
        (json.dumps({"error": "failed to load 'x', no memory"}), True, "failed to load 'x', no memory"),
        ('{"error": "explicit model load / unload is not allowed if polling is enabled"}', False,
         "start the server with --model-control-mode=explicit"),
        ("", True, "HTTP status 400"),
        ("[]", True, "\\[\\]"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_the_servers_words(tmp_path: Path, text: str, passes: bool, told: str) -> None:
    with serving(tmp_path, text=text), pytest.raises(ModelControlError, match=told) as error_response:
        ModelControl(tmp_path).load("x")
    assert error_response.value.passes is passes


def test_a_server_that_does_not_answer_may_do_so_later(tmp_path: Path) -> None:
    with serving(tmp_path):
        pass
    with pytest.raises(ModelControlError, match="no answer from 127.0.0.1:.*ConnectionRefusedError") as error_response:
        ModelControl(tmp_path).state("denoiser")
    assert error_response.value.passes


def test_the_key_is_readable_for_the_servers_user_alone(tmp_path: Path) -> None:
    ControlAddress("127.0.0.1", 8000, "secret").publish(tmp_path / "run")
    ControlAddress("127.0.0.1", 8001, "another").publish(tmp_path / "run")  # a server that is started again
    assert stat.S_IMODE((tmp_path / "run" / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    found = ControlAddress.of_server(tmp_path / "run")
    assert found == ControlAddress("127.0.0.1", 8001, "another") and "another" not in repr(found)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]


def test_without_the_file_it_is_tritons_default_address_and_the_environments_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert ControlAddress.of_server(tmp_path) == ControlAddress("127.0.0.1", 8000, "")
    monkeypatch.setenv(KEY_VARIABLE, "from a Secret")
    assert ControlAddress.of_server(tmp_path) == ControlAddress("127.0.0.1", 8000, "from a Secret")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"host": "x", "port": "y", "key": ""}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelControlError, match=f"{FILE} cannot be read"):
        ModelControl(tmp_path).state("denoiser")
