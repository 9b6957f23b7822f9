"""The client reaches a server on this machine whatever proxy the environment names, and others through the proxy."""

import pytest
from wan_t2v_client import Connection, TextToVideo
from wan_t2v_client.transport.proxy import is_loopback, proxy_arguments

from tests.fakes.scripted_server import MADE, VIDEO, serving


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_in_the_environment_is_not_asked_about_loopback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for exception in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(exception, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with serving(MADE) as server, TextToVideo(Connection(server.url)) as client:
        assert client.generate("x").video == VIDEO


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("127.0.0.1:8001", True),
        ("127.8.9.10:8001", True),
        ("localhost:8001", True),
        ("LOCALHOST:8001", True),
        ("[::1]:8001", True),
        ("video.example:443", False),
        ("10.0.0.1:8001", False),
        ("localhost.example:8001", False),
    ],
)
def test_other_machines_may_be_behind_a_proxy(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
    assert bool(proxy_arguments(url)) is loopback
