import socket
from pathlib import Path

import pytest

from embedded.errors import ServerError
from embedded.folder import ServerFolder
from embedded.options import LOOPBACK, ServerOptions, command_line
from embedded.ports import free_ports
from embedded.wheel import installed_wheel


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "::1"), ("0.0.0.0", LOOPBACK), ("::", LOOPBACK)],
)
def test_http_and_metrics_leave_loopback_only_by_name(host: str, inside: str, root: Path, tmp_path: Path) -> None:
    """One request over HTTP could end Triton 2.51; gRPC is what a network gets."""
    assert addresses_of(ServerOptions(repository=root, host=host), tmp_path / "a") == [host, inside, inside]
    named = ServerOptions(repository=root, host=host, http_host="0.0.0.0", metrics_host="::")
    assert addresses_of(named, tmp_path / "b") == [host, "0.0.0.0", "::"]


def addresses_of(options: ServerOptions, folder: Path) -> list[str]:
    folder.mkdir()
    wheel = installed_wheel()
    linked = ServerFolder.link(folder, wheel, repository=options.repository)
    command = command_line(options, wheel, linked, shm_prefix="x")
    given = dict(argument.split("=", 1) for argument in command if "=" in argument)
    return [given[f"--{protocol}-address"] for protocol in ("grpc", "http", "metrics")]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_runs_code_or_reads_memory_needs_the_key_on_every_host(host: str, root: Path, tmp_path: Path) -> None:
    """A web page in a browser on the same machine reaches loopback, too."""
    options, wheel = ServerOptions(repository=root, host=host), installed_wheel()
    command = command_line(options, wheel, ServerFolder.link(tmp_path, wheel, repository=root), shm_prefix="x")
    for option in ("--grpc-restricted-protocol=", "--http-restricted-api="):
        (restricted,) = [argument.removeprefix(option) for argument in command if argument.startswith(option)]
        protocols, _, key = restricted.partition(":")
        assert set(protocols.split(",")) == {"model-repository", "shared-memory", "trace", "logging"}
        assert key == f"admin-key={options.admin_key}"
    assert options.admin_header == {"triton-grpc-protocol-admin-key": options.admin_key}


def test_a_host_that_is_none_is_told_plainly() -> None:
    with pytest.raises(ServerError, match="HOST=no.such.host.invalid is no address of this machine"):
        ServerOptions(host="no.such.host.invalid").with_ports()


def test_free_ports_are_free_and_differ() -> None:
    ports = free_ports(3, "127.0.0.1")
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_the_admin_key_is_not_shown() -> None:
    options = ServerOptions()
    assert options.admin_key not in repr(options)


def test_the_server_asks_silent_clients_and_lets_them_ask(root: Path, tmp_path: Path) -> None:
    """Triton's own limits end the call of a client that pings more often than once in five minutes."""
    wheel = installed_wheel()
    folder = ServerFolder.link(tmp_path, wheel, repository=root)
    command = command_line(ServerOptions(repository=root), wheel, folder, shm_prefix="x")
    assert "--grpc-keepalive-time=30000" in command
    allowed = next(option for option in command if "min-recv-ping-interval" in option)
    assert int(allowed.rpartition("=")[2]) <= 10_000
