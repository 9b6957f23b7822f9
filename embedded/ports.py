"""Ports: find free ones, and report a taken one early."""

import socket
import time
from collections.abc import Iterable, Mapping

import psutil

from embedded.errors import ServerError

LISTEN_LIMIT_S = 15.0  # Triton binds the port of its metrics last
LISTEN_POLL_S = 0.1


def free_ports(count: int, host: str) -> list[int]:
    """Return different free ports of one host."""
    return free_ports_of([host] * count)


def free_ports_of(hosts: Iterable[str]) -> list[int]:
    """Return a free port per host. All are bound at the same time, so that they differ."""
    sockets = [_bind(host, 0) for host in hosts]
    try:
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def check_free(ports: Iterable[tuple[str, int]], host: str) -> None:
    """Raise ServerError for the first port, given with its setting's name, that is taken."""
    for setting, port in ports:
        try:
            _bind(host, port).close()
        except OSError as error:
            raise ServerError(
                f"{setting}={port} cannot be used on {host} ({error.strerror}); free it or choose another port"
            ) from None


def addresses(host: str) -> list[str]:
    """Resolve a host's name. Raises ServerError if it has no address."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        raise ServerError(f"HOST={host} is no address of this machine ({error.strerror})") from None


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


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in addresses(host)[0] else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
