"""TLS and the authentication header, against a gRPC server that insists on both."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wan_t2v_client import Connection, RequestRefused, TextToVideo
from wan_t2v_client.cli.main import main

from tests.fakes.client_process import assert_one_line, run_refused
from tests.fakes.scripted_server import MADE, serving

NOWHERE = "127.0.0.1:1"


class Guarded(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> service_pb2.ModelStatisticsResponse:
        if ("authorization", "Bearer let-me-in") not in list(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        model = service_pb2.ModelStatistics(name="text_to_video", version="1")
        return service_pb2.ModelStatisticsResponse(model_stats=[model])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return key, certificate


@pytest.fixture(scope="module")
def url(certificate: tuple[Path, Path]) -> Iterator[str]:
    key, chain = (path.read_bytes() for path in certificate)
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Guarded(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


def run(url: str, *arguments: str) -> int:
    return main(["models", "--url", url, "--deadline-s", "10", *arguments])


def test_with_tls_and_the_header_the_call_goes_through(
    url: str, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(url, "--tls", "--ca-file", str(certificate[1]), "--header", "Authorization: Bearer let-me-in") == 0
    assert "text_to_video" in capsys.readouterr().out


def test_without_the_header_it_is_refused(
    url: str, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(url, "--tls", "--ca-file", str(certificate[1])) == 2
    assert "who are you?" in capsys.readouterr().err


def test_without_tls_there_is_no_connection(url: str) -> None:
    assert run(url) == 3


@pytest.mark.parametrize("command", [["models"], ["generate", "x", "--out", "/dev/null"], ["batch", "prompts.txt"]])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_certificate_that_does_not_verify_is_refused_at_once(
    url: str,
    certificate: tuple[Path, Path],
    command: list[str],
    trusted: bool,
    *,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of an unknown authority, and a known one that is for another name."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a ball\na cube\n")
    authority = ["--ca-file", str(certificate[1])] if trusted else []
    errors = run_refused(capsys, *command, "--url", url.replace("localhost", "127.0.0.1"), "--tls", *authority)
    assert "whose certificate does not verify" in errors and "--ca-file" in errors
    assert ("another name" if trusted else "self signed certificate") in errors


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
    errors = run_refused(capsys, "models", "--url", NOWHERE, "--header", header)
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
    errors = run_refused(capsys, "models", "--url", NOWHERE, "--header-file", str(file))
    assert says in errors and str(file) in errors and "secret" not in errors
