"""A port of the test that forwards to the database, and can be severed from it as if the database were away."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit


class SeverableDatabase:
    """`url` leads to the database through this port; `refused` counts the connections that were ended at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._database = (parts.hostname or "127.0.0.1", parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        account = parts.netloc.rpartition("@")[0]
        netloc = f"{account}{'@' if account else ''}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._severed = False
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def sever(self) -> None:
        """End all connections, and each new one at once."""
        with self._lock:
            self._severed = True
            self._end_all()

    def mend(self) -> None:
        with self._lock:
            self._severed = False

    def close(self) -> None:
        self.sever()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _end_all(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                with self._lock:
                    if self._severed:
                        self.refused += 1
                        here.close()
                        continue
                    there = socket.create_connection(self._database)
                    self._ends |= {here, there}
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._forward, args=[source, sink], daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._ends -= {source, sink}
        source.close()


@contextmanager
def severable(url: str) -> Iterator[SeverableDatabase]:
    database = SeverableDatabase(url)
    try:
        yield database
    finally:
        database.close()
