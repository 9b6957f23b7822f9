"""What cannot be listened on is said of the setting that is wrong; what is free differs from what was chosen."""

import contextlib
import socket
from typing import ClassVar

import pytest

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.ports import Listener, _check_different, choose_ports, free_ports

ELSEWHERE = "192.0.2.1"  # for documentation, so no machine has it
SETTINGS = ("grpc_port", "http_port", "metrics_port")


def refused(**settings: object) -> str:
    with pytest.raises(ServerError) as refusal:
        ServerOptions(**settings).with_ports()
    return str(refusal.value)


@pytest.mark.parametrize("port", [80010, 65536, -1, 10**30])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_number_that_is_no_port_is_refused_with_what_is_accepted(setting: str, port: int) -> None:
    accepted = "accepted: 1 to 65535, or 0 for a free one"
    assert refused(**{setting: port}) == f"{setting.upper()}={port} is no port; {accepted}"


@pytest.mark.parametrize("port", [0, 8001])
@pytest.mark.parametrize(("setting", "name"), [("host", "HOST"), ("http_host", "HTTP_HOST")])
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (ELSEWHERE, "Cannot assign requested address"),
        ("a..b", "not a host's name"),
        ("a" * 64, "not a host's name"),
    ],
)
def test_a_host_that_is_none_is_told_by_its_setting(port: int, setting: str, name: str, host: str, reason: str) -> None:
    told = refused(**{setting: host, "grpc_port": port, "http_port": port and port + 1})
    assert told.startswith(f"{name}={host} is no address of this machine ({reason}")
    assert told.endswith("accepted: a name or an address of it, such as 127.0.0.1, or 0.0.0.0 for all")


def test_the_metrics_host_is_told_by_its_setting() -> None:
    assert refused(metrics_host=ELSEWHERE).startswith(f"METRICS_HOST={ELSEWHERE} is no address")


def test_a_port_that_is_taken_is_told_by_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = f"HTTP_PORT={port} cannot be used on 127.0.0.1 (Address already in use); free it or choose another port"
        assert refused(http_port=port) == told


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize(("one", "other"), [SETTINGS[:2], SETTINGS[1:], SETTINGS[::2]])
def test_one_port_for_two_protocols_is_refused(host: str, one: str, other: str) -> None:
    (port,) = free_ports(1, "127.0.0.1")
    told = refused(host=host, **{one: port, other: port})
    assert told.startswith(f"{one.upper()} and {other.upper()} are both {port}; accepted: different ports; ")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "::1", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::", "0.0.0.0", True),
        ("::1", "::1", True),
    ],
)
def test_one_port_on_two_addresses_is_two_unless_one_is_all(one: str, other: str, overlap: bool) -> None:
    listeners = [Listener("GRPC_PORT", 8001, one), Listener("HTTP_PORT", 8001, other)]
    for pair in (listeners, listeners[::-1]):
        with pytest.raises(ServerError) if overlap else contextlib.nullcontext():
            _check_different(pair)


class RecordedSocket(socket.socket):
    """A socket that tells which port it was to be bound to."""

    made: ClassVar[list[socket.socket]] = []
    asked: ClassVar[list[int]] = []

    def bind(self, address: tuple[str, int]) -> None:
        self.made.append(self)
        self.asked.append(address[1])
        super().bind(address)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[RecordedSocket]:
    monkeypatch.setattr(RecordedSocket, "made", [])
    monkeypatch.setattr(RecordedSocket, "asked", [])
    monkeypatch.setattr(socket, "socket", RecordedSocket)
    return RecordedSocket


def test_chosen_ports_stay_and_none_of_them_is_found_free(recorded: type[RecordedSocket]) -> None:
    """The kernel is asked for a free one only when the chosen ones are bound."""
    (port,) = free_ports(1, "127.0.0.1")
    options = ServerOptions(metrics_port=port).with_ports()
    assert options.metrics_port == port and recorded.asked == [0, port, 0, 0]
    assert len(set(options.ports.values())) == 3


def test_what_was_bound_is_closed_again(recorded: type[RecordedSocket]) -> None:
    with pytest.raises(ServerError):
        choose_ports([Listener("A", 0, "127.0.0.1"), Listener("B", 0, ELSEWHERE)])
    choose_ports([Listener("A", 0, "127.0.0.1")])
    assert [bound.fileno() for bound in recorded.made] == [-1] * 3
