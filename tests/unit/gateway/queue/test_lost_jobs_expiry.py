"""What expires is removed: each kind on its own, and many rows in parts."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow
from wan_t2v_gateway.database import pool
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.usage import forget_old_work
from wan_t2v_gateway.queue import lost_jobs
from wan_t2v_gateway.queue.lost_jobs import forget_ended_jobs

from tests.unit.gateway.running import running_gateway
from tests.waiting import wait_until

Start = Callable[..., Any]
OLD_WORK = "INSERT INTO work (owner, status, seconds, ended_at) VALUES ('old', 'x', 1, '2020-01-01')"
ENDED_JOB = "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('videos', 'generate', 'cancelled')"
REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it takes too long'; END $$"
REFUSED = {
    "work": "CREATE TRIGGER refuse BEFORE DELETE ON work FOR EACH ROW EXECUTE FUNCTION refuse()",
    "job": "CREATE TRIGGER refuse BEFORE DELETE ON procrastinate_jobs FOR EACH ROW "
    "WHEN (OLD.status = 'cancelled') EXECUTE FUNCTION refuse()",
}
LEFT = {
    "work": "SELECT FROM work WHERE owner = 'old'",
    "job": "SELECT FROM procrastinate_jobs WHERE status = 'cancelled'",
    "expired": "SELECT FROM videos WHERE expires_at < now()",
}


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("refused", REFUSED)
def test_rows_that_cannot_be_deleted_keep_nothing_else(
    start: Start, database: Any, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(lost_jobs, "_EXPIRY_LOOKS", 2)
    gateway = start(workers=0, heartbeat_s=3600.0)
    gateway.post()
    for statement in (REFUSE, REFUSED[refused], OLD_WORK, ENDED_JOB):
        database.execute(statement)
    database.execute("UPDATE videos SET status = 'failed', completed_at = now(), expires_at = now()")
    start(workers=0, heartbeat_s=0.05)
    for kind in {*LEFT} - {refused}:
        wait_until(lambda kind=kind: database.execute(LEFT[kind]).rowcount == 0)
    assert database.execute(LEFT[refused]).rowcount == 1


@pytest.mark.parametrize(
    ("insert", "forget", "left"),
    [(OLD_WORK, forget_old_work, LEFT["work"]), (ENDED_JOB, forget_ended_jobs, LEFT["job"])],
)
def test_many_rows_are_deleted_in_parts_by_one_look(
    database_url: str,
    database: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    insert: str,
    forget: Any,
    left: str,
) -> None:
    with running_gateway(database_url=database_url, data=tmp_path, workers=0):
        pass  # its start makes the tables
    for _ in range(5):
        database.execute(insert)
    rows, parts = Database.rows, list[int]()

    async def counted(self: Database, query: Any, arguments: Sequence[Any] = ()) -> list[DictRow]:
        found = await rows(self, query, arguments)
        parts.append(len(found))
        return found

    async def look() -> None:
        async with Database(database_url) as records:
            monkeypatch.setattr(Database, "rows", counted)
            await forget(records)

    monkeypatch.setattr(pool, "PART_ROWS", 2)
    asyncio.run(look())
    assert parts[-3:] == [2, 2, 1] and database.execute(left).rowcount == 0
