"""The wait of a worker beside Triton for a database that is away: it answers its liveness probe and keeps trying."""

import asyncio
import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import psycopg

from wan_t2v_gateway.database import owners
from wan_t2v_gateway.database.pool import AWAY, CONNECT, Database

NO_KEY = "no key was made; make one (wan-t2v-gateway keys make NAME)"
_SIGNAL_S = 0.5
_log = logging.getLogger(__name__)


class CannotListen(Exception):
    """The address that the probe asks is in use, or is none of this machine's."""


class Patience:
    """The pauses between tries of a worker, and one line in the log for each new reason.

    Attributes:
        first_s, longest_s: the first pause in seconds, which doubles up to the longest.
    """

    first_s = 0.5
    longest_s = 30.0

    def __init__(self) -> None:
        self._pause_s = self.first_s
        self._reason = ""

    def wait(self, reason: str) -> None:
        """Pause after a try that failed for this reason."""
        if reason != self._reason:
            _log.warning("waiting for the database, trying again: %s", reason)
        self._reason = reason
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, self.longest_s)

    def end(self) -> None:
        """Log that the database is there, if it was waited for."""
        if self._reason:
            _log.warning("the database is there")
        self._reason = ""


def wait_for_database(url: str, patience: Patience, *, host: str, port: int, needs_key: bool) -> None:
    """Try until the database is of use: it answers, has the tables, and a key if one is needed.

    `/healthz` answers meanwhile, and every other path with 503. A signal's handler may end the wait at any time. Raises
    CannotListen.
    """
    with _alive(host, port):
        while reason := _in_thread(lambda: _obstacle(url, needs_key)):
            patience.wait(reason)
    patience.end()


def _in_thread(call: Callable[[], str]) -> str:
    """Call in a thread that no exit waits for: a look-up of a name may block for many seconds."""
    results: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(call()), daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty):
            # a signal that comes right before a wait does not wake it, and its handler runs when the wait ends
            return results.get(timeout=_SIGNAL_S)


def _obstacle(url: str, needs_key: bool) -> str:
    """Say in one line why this database is of no use yet; empty if it is. Never raises: the wait has no other end."""
    try:
        # A pool only says that it has no connection; this says why, such as a wrong password. It is no coroutine, since
        # asyncio looks names up in threads for which an exit waits.
        psycopg.connect(url, **CONNECT).close()
        return "" if asyncio.run(has_key(url)) or not needs_key else NO_KEY
    except Exception as error:
        reason = " ".join(str(error).split())
        return reason if reason and isinstance(error, AWAY) else f"{type(error).__name__}: {reason}"


async def has_key(url: str) -> bool:
    """Return whether a key was made, and make the tables first. Raises DatabaseUnavailable after half a minute."""
    database = Database(url)
    await database.open()
    try:
        await database.wait_until_up()  # connecting may take longer than a call waits for a connection
        await database.apply_schema()
        return await owners.any_key(database)
    finally:
        await database.close()


class _Alive(BaseHTTPRequestHandler):
    """Answers to probes while nothing else is served."""

    timeout = 5.0

    def do_GET(self) -> None:  # noqa: N802 (the name is the base class's)
        """Answer 200 to /healthz, 503 to the rest."""
        body = b"waiting for the database\n"
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 (as above)

    def log_message(self, *arguments: Any) -> None:
        """Log no calls."""


class _Server(ThreadingTCPServer):
    """A server that, other than HTTPServer, looks up no name at its start."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Alive)


@contextlib.contextmanager
def _alive(host: str, port: int) -> Iterator[None]:
    try:
        server = _Server(host, port)
    except OSError as error:
        told = f"cannot listen on {host}, port {port}: {error.strerror}; choose --host and --port"
        raise CannotListen(told) from error
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
