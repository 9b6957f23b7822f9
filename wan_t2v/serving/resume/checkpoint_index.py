"""Index of checkpoints by size and age, so that no request lists a folder of fifty thousand files.

An SQLite file beside the checkpoints, which all processes share. It only decides which checkpoints to remove. If it is
lost, the folder is listed once and the index is rebuilt.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

FILE = "index.sqlite3"
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoint (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, written REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_age ON checkpoint (written);
"""


class CheckpointIndex:
    """The index of one folder. Threads and processes may share it; its faults are logged and fail no request."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()

    def rebuild(self, checkpoints: Iterable[tuple[str, int, float]]) -> None:
        """Replace the content by these checkpoints: name, bytes, and time of writing in seconds since the epoch."""
        rows = list(checkpoints)
        try:
            self._replace_all(rows)
        except sqlite3.DatabaseError as error:
            logger.warning("the index of checkpoints %s is made anew: %s", self._path, error)
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            with self._log_faults():
                self._replace_all(rows)

    def record(self, name: str, size_bytes: int, written: float) -> None:
        """Record a written checkpoint."""
        row = (name, size_bytes, written)
        with self._log_faults(), self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)", row)

    def forget(self, name: str) -> None:
        """Delete the entry of a removed checkpoint."""
        with self._log_faults(), self._connect() as connection:
            connection.execute("DELETE FROM checkpoint WHERE name = ?", (name,))

    def surplus(self, *, older_than: float, total_bytes: int) -> list[str]:
        """Return the names to remove, oldest first: written before `older_than`, or in excess of `total_bytes`."""
        with self._log_faults(), self._connect() as connection:
            (total,) = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM checkpoint").fetchone()
            names = []
            for name, size, written in connection.execute("SELECT * FROM checkpoint ORDER BY written, name"):
                if written >= older_than and total <= total_bytes:
                    break
                names.append(name)
                total -= size
            return names
        return []

    def _replace_all(self, rows: list[tuple[str, int, float]]) -> None:
        with self._connect() as connection:
            connection.execute("DELETE FROM checkpoint")
            connection.executemany("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open one transaction on a connection of its own, since threads and forks must not share one."""
        with self._lock, contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # after a power failure the index is rebuilt
            connection.executescript(_SCHEMA)
            yield connection

    @contextlib.contextmanager
    def _log_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            logger.warning("the index of checkpoints %s cannot be used: %s", self._path, error)
