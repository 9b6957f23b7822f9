"""An HTTP endpoint behind the address is noticed at once and named."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from wan_t2v_client import Unavailable
from wan_t2v_client.cli.main import main
from wan_t2v_client.errors import WrongEndpoint
from wan_t2v_client.transport.endpoint_probe import explain

from tests.fakes.client_process import run_refused
from tests.fakes.scripted_server import Refusal, serving

NOWHERE = "127.0.0.1:1"


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


class Quiet(ThreadingHTTPServer):
    """Prints no traceback, which would stand among the command's errors, for a caller who left."""

    def handle_error(self, request: object, client_address: object) -> None:
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
    other = Quiet(("127.0.0.1", 0), TellsTheVersion)
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
        errors = run_refused(capsys, *command, "--url", url, *options[1:])
    assert f"got '{url}', where HTTP answers and not gRPC" in errors


def test_a_grpc_endpoint_that_is_unavailable_is_not_taken_for_http(capsys: pytest.CaptureFixture[str]) -> None:
    with serving([Refusal()]) as server:
        assert main(["generate", "x", "--url", server.url, "--attempts", "1", "--out", "/dev/null"]) == 3
    assert main(["generate", "x", "--url", NOWHERE, "--attempts", "1", "--out", "/dev/null"]) == 3


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
            "certificate has expired",
        ),
        ("error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED", "unknown reason"),
        (
            "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            "another name",
        ),
    ],
)
def test_a_certificate_that_does_not_verify_is_told_with_its_reason(message: str, reason: str) -> None:
    """Older releases of gRPC give no reason."""
    error = explain(Unavailable(f"failed to connect to all addresses; last error: {message}"), NOWHERE)
    assert isinstance(error, WrongEndpoint) and reason in str(error)


def test_what_a_proxy_tells_of_the_connection_behind_it_is_left_as_it_is() -> None:
    told = Unavailable("upstream connect error; TLS_error:|SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED")
    assert explain(told, NOWHERE) is told
