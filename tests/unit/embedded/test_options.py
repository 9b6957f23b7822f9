import socket

import pytest

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.ports import free_ports


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_known_by_name_and_by_number(host: str, loopback: bool) -> None:
    options = ServerOptions(host=host)
    assert options.on_loopback == loopback
    assert bool(options.admin_header) != loopback


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
