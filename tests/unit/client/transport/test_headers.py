"""TLS and the authentication header, against a gRPC server that insists on both."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wan_t2v_client.cli.main import main


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


def test_without_tls_or_with_another_authority_there_is_no_connection(url: str) -> None:
    assert run(url) == 3
    assert run(url, "--tls") == 3
