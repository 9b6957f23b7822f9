"""Certificates that are none, and a TLS handshake that fails, end in one line."""

import socket
import threading
from pathlib import Path

import pytest
from wan_t2v_client import Connection, RequestRefused

from tests.fakes.client_process import assert_one_line, run_command, run_refused

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize("files", [["--ca-file"], ["--key-file", "--certificate-file"], ["--key-file"]])
def test_certificates_that_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, files: list[str]
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    options = [part for file in files for part in (file, str(garbage))]
    errors = run_refused(capsys, "models", "--url", NOWHERE, "--tls", *options)
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
        code, _, errors = run_command("models", "--tls", "--url", url, "--deadline-s", "20")
        listening.shutdown(socket.SHUT_RDWR)
    assert code == 3
    assert_one_line(errors)


def test_names_of_files_may_be_texts(tmp_path: Path) -> None:
    connection = Connection(NOWHERE, tls=True, ca_file=str(tmp_path / "ca.pem"))
    assert connection.ca_file == tmp_path / "ca.pem"
    with pytest.raises(RequestRefused, match="ca.pem is not a file"):
        connection.check()


@pytest.mark.parametrize("name", ["ca_file", "key_file", "certificate_file"])
def test_what_is_no_name_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(RequestRefused, match=f"^{name}: got a int; accepted: the path of a file$"):
        Connection(NOWHERE, tls=True, **{name: 7})
