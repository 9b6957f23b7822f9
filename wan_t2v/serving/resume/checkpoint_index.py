"""Index of checkpoints by size and age, so that no request lists a folder of fifty thousand files.

An SQLite file beside the checkpoints, for all processes. It only decides what to remove, so it may be lost: then the
folder is listed once and the index is made again.
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
    """The index of one folder. Threads and processes may share it; its faults are logged and cost nobody a video."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()

    def rebuild(self, checkpoints: Iterable[tuple[str, int, float]]) -> None:
        """Take exactly these: name, bytes and time of writing of each."""
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
        """A checkpoint was written."""
        row = (name, size_bytes, written)
        with self._log_faults(), self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)", row)

    def forget(self, name: str) -> None:
        """A checkpoint is gone."""
        with self._log_faults(), self._connect() as connection:
            connection.execute("DELETE FROM checkpoint WHERE name = ?", (name,))

    def surplus(self, *, older_than: float, total_bytes: int) -> list[str]:
        """Names to remove, oldest first: written before `older_than`, or more than `total_bytes` together."""
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
        """One transaction. A connection of its own each time: threads and forks share none."""
        with self._lock, contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # after a power failure it is made again
            connection.executescript(_SCHEMA)
            yield connection

    @contextlib.contextmanager
    def _log_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            logger.warning("the index of checkpoints %s cannot be used: %s", self._path, error)
