"""A worker whose database is away, is configured wrongly, or has no key yet: it answers its probe and keeps trying."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from wan_t2v_gateway import __main__ as command
from wan_t2v_gateway.database import pool, waiting
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.waiting import Patience

from tests.child_process import child_process
from tests.unit.gateway.severed_database import severable
from tests.waiting import wait_until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Worker:
    """A worker's process."""

    def __init__(self, database_url: str, folder: Path, host: str = "127.0.0.1") -> None:
        self.port, self._log = free_port(), folder / "log"
        options = ["--database-url", database_url, "--data", str(folder), "--host", host, "--port", str(self.port)]
        command = [sys.executable, "-m", "wan_t2v_gateway", *options, "--url", "127.0.0.1:1", "--wait-for-database"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, env=os.environ)

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def status(self, path: str) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30).status_code
        return 0


@contextlib.contextmanager
def worker(database_url: str, folder: Path, host: str = "127.0.0.1") -> Iterator[Worker]:
    started = Worker(database_url, folder, host)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_it_waits_with_one_line_and_answers_its_probe_until_the_database_is_there(
    database_url: str, tmp_path: Path
) -> None:
    with severable(database_url) as database:
        database.sever()
        with worker(database.url, tmp_path) as started:
            wait_until(lambda: database.refused >= 3)
            assert (started.status("/healthz"), started.status("/readyz")) == (200, 503)
            assert httpx.post(f"http://127.0.0.1:{started.port}/v1/videos", json={}, timeout=30).status_code == 503
            assert started.log().count("waiting for the database") == 1
            database.mend()
            wait_until(lambda: started.status("/v1/videos") == 200)
            assert started.log().count("the database is there") == 1
            database.sever()
            wait_until(lambda: started.status("/v1/videos") == 503)
            assert started.status("/healthz") == 200
            database.mend()
            wait_until(lambda: started.status("/v1/videos") == 200)
            started.process.send_signal(signal.SIGTERM)
            assert started.process.wait(60) == 0


@pytest.mark.parametrize(
    ("host", "reason"), [(64 * "x", "waiting for the database"), ("127.0.0.1:1", "refused")], ids=["no name", "no port"]
)
def test_one_without_a_database_ends_when_it_is_told_to(host: str, reason: str, tmp_path: Path) -> None:
    """A part of a name has at most 63 letters, so no resolver is asked for this one."""
    with worker(f"postgresql://anna:secret@{host}/videos", tmp_path) as started:
        wait_until(lambda: reason in started.log())
        assert started.status("/healthz") == 200
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(60) == 128 + signal.SIGTERM
        assert "secret" not in started.log() and "Traceback" not in started.log()


def test_a_database_that_is_not_there_and_a_key_that_was_not_made_are_named(database_url: str, tmp_path: Path) -> None:
    with worker(f"{database_url}_other", tmp_path) as started:
        wait_until(lambda: re.search(r'database "\w+_other" does not exist', started.log()) is not None)
    assert waiting._obstacle(database_url, True) == waiting.NO_KEY
    assert waiting._obstacle(database_url, False) == ""


def test_a_missing_right_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c role=pg_monitor")
    closed, close = list[Database](), Database.close

    async def close_and_record(database: Database) -> None:
        closed.append(database)
        await close(database)

    monkeypatch.setattr(Database, "close", close_and_record)
    assert re.search("InsufficientPrivilege: permission denied", waiting._obstacle(database_url, False))
    assert len(closed) == 1  # an open pool could hold up the end of the try for ever


def test_an_exit_does_not_wait_for_a_try() -> None:
    """The thread writes without a buffer: an interpreter that ends while one is locked aborts."""
    script = (
        "import os, signal, threading; from wan_t2v_gateway.database import waiting as w\n"
        "def end(*_): raise SystemExit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "w._in_thread(lambda: os.write(1, b'tries\\n') and threading.Event().wait())\n"
    )
    with child_process([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"tries\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3


def test_pauses_grow_up_to_a_bound_and_a_new_reason_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", pauses.append)
    patience = Patience()
    for reason in ["refused"] * 8 + ["wrong password"]:
        patience.wait(reason)
    patience.end()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [line.rpartition(": ")[2] for line in caplog.messages] == [
        "refused",
        "wrong password",
        "the database is there",
    ]


def test_a_database_that_takes_long_to_connect_to_is_of_use(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits 1.5 s for a connection, and a slow look-up of its name may take longer."""
    connect, limit = psycopg.AsyncConnection.connect, pool._CONNECTION_LIMIT_S

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(1.5 * limit)
        return await connect(*arguments, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", slowly)
    assert waiting._obstacle(database_url, False) == ""


def test_a_port_in_use_ends_the_start(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert command.main(["--database-url", database_url, "--port", port, "--wait-for-database"]) == 1
    assert re.fullmatch(
        r"error: cannot listen on 127.0.0.1, port \d+: Address already in use; .*\n", capsys.readouterr().err
    )
