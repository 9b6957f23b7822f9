"""The server's address: what is taken, and what is refused before anything is sent."""

from pathlib import Path

import pytest
from wan_t2v_client.transport.address import check_address

from tests.fakes.client_process import run_refused

NOWHERE = "127.0.0.1:1"


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
    errors = run_refused(capsys, *command, *out, "--url", url)
    assert says in errors and "secret" not in errors


@pytest.mark.parametrize(
    "url", ["localhost:8001", "[::1]:8001", "[fe80::1%eth0]:1", "a_b-c.d:65535", "dns:///a:1", "unix:/run/triton"]
)
def test_addresses_of_all_kinds_are_taken(url: str) -> None:
    check_address(url)
