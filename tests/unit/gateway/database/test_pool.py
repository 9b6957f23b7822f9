"""A database that comes up after the gateway."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import procrastinate
import pytest
from wan_t2v_gateway import app
from wan_t2v_gateway.database import pool, waiting
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database

from tests.unit.gateway.running import running_gateway
from tests.unit.gateway.severed_database import SeverableDatabase, severable
from tests.waiting import wait_until


def mend_after_three_tries(database: SeverableDatabase) -> threading.Thread:
    def mend() -> None:
        wait_until(lambda: database.refused >= 3)
        database.mend()

    thread = threading.Thread(target=mend, daemon=True)
    thread.start()
    return thread


def test_a_gateway_starts_although_the_queue_would_have_given_the_database_up(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = app.queue_app

    def giving_up_at_once(url: str) -> procrastinate.App:
        queue: Any = make(url)
        queue.connector._pool_args["reconnect_timeout"] = 0.0
        return queue  # type: ignore[no-any-return]

    monkeypatch.setattr(app, "queue_app", giving_up_at_once)
    monkeypatch.setattr(pool, "_START_LIMIT_S", 120.0)
    with severable(database_url) as database:
        database.sever()
        thread = mend_after_three_tries(database)
        with running_gateway(database_url=database.url, data=tmp_path, workers=0) as gateway:
            assert gateway.http.get("/v1/videos").status_code == 200
        thread.join()


def test_the_look_for_a_key_waits_too(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_START_LIMIT_S", 120.0)
    monkeypatch.setattr(pool, "_CONNECTION_LIMIT_S", 0.5)  # over before the third try
    with severable(database_url) as database:
        database.sever()
        thread = mend_after_three_tries(database)
        assert asyncio.run(waiting.has_key(database.url)) is False
        thread.join()


def test_a_database_that_stays_away_is_an_error_in_the_end(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(url: str) -> None:
        database = Database(url)
        await database.open()
        try:
            await database.wait_until_up()
        finally:
            await database.close()

    monkeypatch.setattr(pool, "_START_LIMIT_S", 0.5)
    with severable(database_url) as database:
        database.sever()
        with pytest.raises(DatabaseUnavailable):
            asyncio.run(wait(database.url))
