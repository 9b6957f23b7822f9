"""Ports: choose free ones, and report early what cannot be listened on."""

import contextlib
import errno
import itertools
import socket
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

from embedded.errors import ServerError

LISTEN_LIMIT_S = 15.0  # Triton binds the port of its metrics last
LISTEN_POLL_S = 0.1
MOST_PORT = 65535
EVERY_IPV4, EVERY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - compared with, not bound
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)  # errors of the address, not of the port


class Listener(NamedTuple):
    """A port to listen on, 0 for a free one, by its setting's name. The host's setting is HOST with a prefix."""

    setting: str
    port: int
    host: str
    host_prefix: str = ""


def free_ports(count: int, host: str) -> list[int]:
    """Return different free ports of one host."""
    return list(choose_ports([Listener(str(number), 0, host) for number in range(count)]).values())


def choose_ports(listeners: Sequence[Listener]) -> dict[str, int]:
    """Return each listener's port by its setting, a free one for 0. Raises ServerError if one cannot be used."""
    for setting, port, *_ in listeners:
        if not 0 <= port <= MOST_PORT:
            raise ServerError(f"{setting}={port} is no port; accepted: 1 to {MOST_PORT}, or 0 for a free one")
    _check_different([listener for listener in listeners if listener.port])
    with contextlib.ExitStack() as stack:
        # All stay bound until the end, so that they differ. Given ports are bound first, so that no free port is picked
        # that another setting asks for.
        bound = {
            listener.setting: stack.enter_context(_bind(listener))
            for listener in sorted(listeners, key=lambda listener: listener.port == 0)
        }
        return {listener.setting: bound[listener.setting].getsockname()[1] for listener in listeners}


def addresses(host: str, prefix: str = "") -> list[str]:
    """Resolve a host's name. Raises ServerError, with the prefix of the host's setting, if it has no address."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        raise _no_address(host, prefix, error.strerror) from None
    except ValueError:  # such as a..b
        raise _no_address(host, prefix, "not a host's name") from None


def check_listening(ports: Mapping[str, int], pid: int, *, limit_s: float = LISTEN_LIMIT_S) -> None:
    """Raise ServerError if a process does not listen on each port, by setting name, within `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while missing := {name: port for name, port in ports.items() if port not in _listening_ports(pid)}:
        if time.monotonic() >= deadline:
            setting, port = next(iter(missing.items()))
            raise ServerError(
                f"{setting}={port} was taken by another program while the server started; free it or choose another"
            )
        time.sleep(LISTEN_POLL_S)


def _listening_ports(pid: int) -> set[int]:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:  # it ended
        return set()
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def url_host(host: str) -> str:
    """Format a host for a URL: an IPv6 address gets brackets."""
    return f"[{host}]" if ":" in host else host


def _check_different(listeners: Sequence[Listener]) -> None:
    for one, other in itertools.combinations(listeners, 2):
        if one.port == other.port and _overlap(_addresses_of(one), _addresses_of(other)):
            raise ServerError(
                f"{one.setting} and {other.setting} are both {one.port}; accepted: different ports; "
                "choose another for one of them, or 0 for a free one"
            )


def _overlap(ours: set[str], theirs: set[str]) -> bool:
    """Whether the hosts share an address; 0.0.0.0 is every address of IPv4, and :: every one."""
    if ours & theirs or EVERY_IPV6 in ours | theirs:
        return True
    of_ipv4 = [any(":" not in address for address in addresses) for addresses in (ours, theirs)]
    return EVERY_IPV4 in ours | theirs and all(of_ipv4)


def _addresses_of(listener: Listener) -> set[str]:
    return set(addresses(listener.host, listener.host_prefix))


def _bind(listener: Listener) -> socket.socket:
    """Bind a listener's port. Raises ServerError if that is not possible."""
    setting, port, host, prefix = listener
    family = socket.AF_INET6 if ":" in addresses(host, prefix)[0] else socket.AF_INET
    try:
        with contextlib.ExitStack() as stack:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            stack.pop_all()
    except OSError as error:
        if error.errno in _NOT_OURS:
            raise _no_address(host, prefix, error.strerror) from None
        raise ServerError(
            f"{setting}={port} cannot be used on {host} ({error.strerror}); free it or choose another port"
        ) from None
    return bound


def _no_address(host: str, prefix: str, reason: str | None) -> ServerError:
    return ServerError(
        f"{prefix}HOST={host} is no address of this machine ({reason}); accepted: a name or an address of it, such as "
        "127.0.0.1, or 0.0.0.0 for all"
    )
