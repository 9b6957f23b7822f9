"""What callers get wrong ends in one line and the right exit code, before anything is sent."""

import asyncio
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from wan_t2v_client import AsyncTextToVideo, Connection, RequestRefused, ServerFault, TextToVideo
from wan_t2v_client.cli.main import main
from wan_t2v_client.deadline import LONGEST_S, Deadline
from wan_t2v_client.progress import read_message
from wan_t2v_client.retry import RetryPolicy
from wan_t2v_client.transport.address import check_address

from tests.fakes.client_process import assert_one_line, finished
from tests.fakes.scripted_server import MADE, VIDEO, Refusal, serving

NOWHERE = "127.0.0.1:1"
NO_NUMBERS = ["nan", "inf", "-inf", "-1", "1e400", "1e300", "soon", ""]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is refused; return what it said."""
    try:
        code = main(arguments)
    except SystemExit as end:  # as argparse ends
        code = end.code
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert_one_line(errors)
    return errors


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:8000", "Nearest: 127.0.0.1:8000, if that is the gRPC port"),
        ("https://video.example:443/", "Nearest: video.example:443 with --tls"),
        ("grpc://127.0.0.1:8001", "Nearest: 127.0.0.1:8001\n"),
        ("http://me:secret@host:8000", "***@host:8000"),
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),  # gRPC takes it modulo 65536
        ("127.0.0.1:0", "HOST:PORT"),
        ("127.0.0.1:8001/v2", "HOST:PORT"),
        ("::1", "brackets"),
        ("", "HOST:PORT"),
        ("a b:8001", "HOST:PORT"),
        ("h\u00f6st:8001", "HOST:PORT"),
        ("\udcff:8001", "HOST:PORT"),
    ],
)
@pytest.mark.parametrize("command", [["generate", "x"], ["models"]])
def test_what_is_no_address_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], url: str, says: str
) -> None:
    out = ["--out", str(tmp_path / "x.mp4")] if command[0] == "generate" else []
    errors = refused(capsys, *command, *out, "--url", url)
    assert says in errors and "secret" not in errors


@pytest.mark.parametrize(
    "url", ["localhost:8001", "[::1]:8001", "[fe80::1%eth0]:1", "a_b-c.d:65535", "dns:///a:1", "unix:/run/triton"]
)
def test_addresses_of_all_kinds_are_taken(url: str) -> None:
    check_address(url)


class AsTriton(threading.Thread):
    """Triton's HTTP endpoint as 2.51 was seen to be: closes what is HTTP/2, or TLS, without a word."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                if connection.recv(4096).startswith(b"GET "):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


class TellsTheVersion(BaseHTTPRequestHandler):
    """An HTTP server that says that it does not know HTTP/2."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def http_endpoint(kind: str) -> Iterator[str]:
    if kind == "as Triton":
        server = AsTriton()
        server.start()
        yield f"127.0.0.1:{server.port}"
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        return
    other = ThreadingHTTPServer(("127.0.0.1", 0), TellsTheVersion)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{other.server_port}"
    other.shutdown()
    other.server_close()


@pytest.mark.parametrize("kind", ["as Triton", "tells the version"])
@pytest.mark.parametrize(
    "options", [["generate"], ["generate", "--unary"], ["generate", "--tls"], ["batch"], ["models"]]
)
def test_an_http_port_is_said_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, options: list[str]
) -> None:
    """At once: with five attempts, the default, an unreachable server takes many seconds."""
    (tmp_path / "prompts.txt").write_text("a ball\na cube\n")
    command = {
        "generate": ["generate", "a ball", "--out", str(tmp_path / "x.mp4")],
        "batch": ["batch", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "videos")],
        "models": ["models"],
    }[options[0]]
    with http_endpoint(kind) as url:
        errors = refused(capsys, *command, "--url", url, *options[1:])
    assert f"got '{url}', where HTTP answers and not gRPC" in errors


def test_a_grpc_endpoint_that_is_unavailable_is_not_taken_for_http(capsys: pytest.CaptureFixture[str]) -> None:
    with serving([Refusal()]) as server:
        assert main(["generate", "x", "--url", server.url, "--attempts", "1", "--out", "/dev/null"]) == 3
    assert main(["generate", "x", "--url", NOWHERE, "--attempts", "1", "--out", "/dev/null"]) == 3


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("option", ["--deadline-s", "--keepalive-s", "--idle-limit-s"])
def test_what_is_no_usable_number_of_seconds_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    for command in (["generate", "x"], ["batch", "x.txt"], ["models"]):
        if command != ["models"] or option != "--idle-limit-s":
            errors = refused(capsys, *command, "--url", NOWHERE, f"{option}={text}")
            assert option in errors and repr(text) in errors and "accepted: a number of seconds" in errors


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300, "5", True])
def test_the_library_refuses_them_too(seconds: float) -> None:
    async def ask_asyncio() -> None:
        async with AsyncTextToVideo(Connection(NOWHERE)) as server:
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                await server.generate("x", deadline_s=seconds)
            with pytest.raises(RequestRefused, match="idle_limit_s: got"):
                await server.generate("x", idle_limit_s=seconds)
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                await server.models(deadline_s=seconds)

    with TextToVideo(Connection(NOWHERE)) as server:
        for ask in (server.generate, server.generate_unary):
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                ask("x", deadline_s=seconds)
        with pytest.raises(RequestRefused, match="idle_limit_s: got"):
            server.generate("x", idle_limit_s=seconds)
        with pytest.raises(RequestRefused, match="deadline_s: got"):
            server.models(deadline_s=seconds)
    asyncio.run(ask_asyncio())
    with pytest.raises(RequestRefused, match="keepalive_s: got"):
        TextToVideo(Connection(NOWHERE, keepalive_s=seconds))


@pytest.mark.parametrize("kind", [np.float32, np.int64, int, float])
def test_numbers_of_all_kinds_are_seconds(kind: type) -> None:
    assert Deadline(kind(5)).left_s() == pytest.approx(5, abs=0.5)


def test_the_longest_times_can_be_sent() -> None:
    with serving(MADE) as server, TextToVideo(Connection(server.url, keepalive_s=2e6)) as client:
        for ask in (client.generate, client.generate_unary):
            assert ask("x", deadline_s=LONGEST_S).video == VIDEO
        assert all(request.parameters["timeout"].int64_param > 9e13 for request in server.requests)


def test_any_number_of_attempts_has_a_wait() -> None:
    assert RetryPolicy(attempts=10_000).wait_s(5_000, None) <= 60.0


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("no colon", "NAME:VALUE"),
        (": secret", "NAME:VALUE"),
        ("x-\u00e9: secret", "got the name"),
        ("two words: secret", "got the name"),
        ("grpc-status: secret", "gRPC's own"),
        ("key-bin: secret", "holds no text"),
        ("a: secret\nb: c", r"got '\n' as character 7"),
        ("a: secret\u00e9", "accepted: printable ASCII"),
        ("a: secret\udcff", "accepted: printable ASCII"),
        ("a: secret\x00", "accepted: printable ASCII"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_and_not_quoted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, header: str, says: str
) -> None:
    errors = refused(capsys, "models", "--url", NOWHERE, "--header", header)
    assert says in errors and "secret" not in errors
    with pytest.raises(RequestRefused):
        TextToVideo(Connection(NOWHERE, headers=dict([header.split(":", 1)] if ":" in header else [("", "x")])))


@pytest.mark.parametrize("value", [b"bytes", 5, None])
def test_the_librarys_headers_are_texts(value: object) -> None:
    with pytest.raises(RequestRefused, match="accepted: a text"):
        TextToVideo(Connection(NOWHERE, headers={"a": value}))


def test_headers_come_from_the_environment_a_file_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headers"
    file.write_text("# for the gateway\n\nAuthorization: Bearer of-file\r\nx-b: file\n", encoding="utf-8-sig")
    monkeypatch.setenv("WAN_T2V_HEADERS", "x-a: environment\nx-b: environment\nx-c: environment")
    with serving(MADE) as server:
        options = ["--header-file", str(file), "--header", "x-c: option", "--url", server.url]
        assert main(["generate", "a ball", "--out", str(tmp_path / "x.mp4"), *options]) == 0
    sent = {name: server.headers[0].get(name) for name in ("authorization", "x-a", "x-b", "x-c")}
    assert sent == {"authorization": "Bearer of-file", "x-a": "environment", "x-b": "file", "x-c": "option"}
    warning = capsys.readouterr().err
    assert_one_line(warning, "warning: the header authorization goes out unencrypted; add --tls")


@pytest.mark.parametrize("tls", [False, True])
def test_only_a_secret_without_tls_is_warned_of(tls: bool) -> None:
    headers = {"Authorization": "x", "x-api-key": "x", "x-session-token": "x", "cookie": "x", "x-trace": "x"}
    warned = Connection(NOWHERE, tls=tls, headers=headers).readable_headers()
    assert warned == ([] if tls else ["authorization", "x-api-key", "x-session-token", "cookie"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"a: b\nsecret\n", "line 2: a header is NAME:VALUE"),
        (b"a: secret\xff\n", "is not UTF-8 text"),
        ("folder", "Is a directory"),
    ],
)
def test_a_file_of_headers_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | str | None, says: str
) -> None:
    file = tmp_path / "headers"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    errors = refused(capsys, "models", "--url", NOWHERE, "--header-file", str(file))
    assert says in errors and str(file) in errors and "secret" not in errors


@pytest.mark.parametrize("files", [["--ca-file"], ["--key-file", "--certificate-file"], ["--key-file"]])
def test_certificates_that_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, files: list[str]
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    options = [part for file in files for part in (file, str(garbage))]
    errors = refused(capsys, "models", "--url", NOWHERE, "--tls", *options)
    assert "no usable PEM" in errors or "go together" in errors


def test_grpc_logs_nothing_beside_the_commands_line(tmp_path: Path) -> None:
    """A TLS handshake that fails is one of the things that gRPC logs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_no_tls() -> None:
            while True:
                try:
                    with listening.accept()[0] as connection:
                        connection.recv(4096)
                        connection.sendall(b"no TLS here\n")
                except OSError:
                    return

        threading.Thread(target=answer_no_tls, daemon=True).start()
        url = f"127.0.0.1:{listening.getsockname()[1]}"
        code, _, errors = finished("models", "--tls", "--url", url, "--deadline-s", "20")
        listening.shutdown(socket.SHUT_RDWR)
    assert code == 3
    assert_one_line(errors)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("folder.txt", None, "Is a directory"),
        ("missing.jsonl", None, "No such file"),
        ("latin.txt", "ein B\u00e4llchen".encode("latin-1"), "line 1: 'utf-8' codec can't decode"),
        ("utf16.txt", "a ball\n".encode("utf-16"), "line 1: 'utf-8' codec can't decode"),
        ("broken.jsonl", b'{"prompt": "a ball"}\n{"prompt": ', "line 2: is not JSON"),
        ("deep.jsonl", b"[" * 100_000, "line 1: is JSON with too many levels"),
        ("digits.jsonl", b'{"prompt": "x", "seed": ' + b"9" * 5_000 + b"}", "too many digits"),
        ("long.jsonl", b'{"prompt": "x", "' + b"a" * 100_000 + b'": 1}', "unknown field 'aaa"),
        ("value.jsonl", b'{"prompt": "x", "seed": "' + b"a" * 100_000 + b'"}', "a number is needed"),
        ("half.jsonl", b'{"prompt": "\\ud800"}', "cannot be sent"),
        ("name.jsonl", '{{"prompt": "x", "name": "{}"}}'.format("\u7403" * 100).encode(), "longer than a file's name"),
        ("list.jsonl", b"[1, 2]", "is not a JSON object"),
        ("empty.txt", b"\n\n", "there is no prompt in it"),
        ("prompts.csv", b"a ball", "accepted are .txt"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    elif name == "folder.txt":
        file.mkdir()
    errors = refused(capsys, "batch", str(file), "--url", NOWHERE, "--out", str(tmp_path / "videos"))
    assert says in errors and str(file) in errors
    assert len(errors) < 1_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_of_prompts_without_permission_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").touch(mode=0)
    assert "Permission denied" in refused(capsys, "batch", str(tmp_path / "prompts.txt"), "--url", NOWHERE)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_ascii_terminal_gets_escapes(tmp_path: Path, environment: dict[str, str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "ein Ball, \u7403", "name": "b\u00e4lle"}\n', encoding="utf-8")
    with serving(MADE) as server:
        for command in (
            ["generate", "a ball", "--out", str(tmp_path / "b\u00e4lle.mp4")],
            ["batch", str(prompts), "--out", str(tmp_path / "b\u00e4lle")],
        ):
            code, output, errors = finished(*command, "--url", server.url, environment=environment)
            assert code == 0 and "Traceback" not in errors, errors
            assert output
    assert (tmp_path / "b\u00e4lle.mp4").exists() and (tmp_path / "b\u00e4lle" / "b\u00e4lle.mp4").exists()


@pytest.mark.parametrize("command", ["generate", "previews", "batch"])
def test_an_unwritable_folder_is_known_before_anything_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a ball\n")
    arguments = {
        "generate": ["generate", "x", "--out", "/proc/x.mp4"],
        "previews": ["generate", "x", "--out", str(tmp_path / "x.mp4"), "--previews", "/proc"],
        "batch": ["batch", str(tmp_path / "prompts.txt"), "--out", "/proc/videos"],
    }[command]
    with serving(MADE) as server:
        assert main([*arguments, "--url", server.url]) == 6
        assert server.requests == []
    named = {"generate": "/proc/x.mp4", "previews": "/proc", "batch": "/proc/videos"}[command]
    assert_one_line(capsys.readouterr().err, f"wan-t2v: {named}: ")


class OtherAnswer:
    """A last response of a model that is not ours."""

    def __init__(self, **outputs: list) -> None:
        self._outputs = outputs

    def as_numpy(self, name: str):
        return np.array(self._outputs[name], dtype=object) if name in self._outputs else None


@pytest.mark.parametrize(
    "outputs", [{"progress": [b"no JSON"]}, {"progress": [b"{}"]}, {"heartbeat": [b"[]"]}, {"metadata": [b"{}"]}]
)
def test_an_answer_that_cannot_be_read_is_the_servers_fault(outputs: dict) -> None:
    with pytest.raises(ServerFault, match="cannot be read"):
        read_message(OtherAnswer(**outputs))
