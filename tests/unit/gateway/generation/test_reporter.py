"""Progress is written beside the video: what cannot be written costs the video nothing."""

import asyncio
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from wan_t2v_client import Heartbeat
from wan_t2v_gateway.database.progress import Update
from wan_t2v_gateway.generation import reporter
from wan_t2v_gateway.generation.reporter import Reporter

VIDEO: Any = SimpleNamespace(id="video_1", attempt=1)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Update]:
    """The updates that were written; the database refuses those of the stage `bad`."""
    updates: list[Update] = []

    async def write(database: Any, video: Any, update: Update) -> bool:
        if update.data["stage"] == "bad":
            raise psycopg.DataError("a text cannot be kept")
        updates.append(update)
        return True

    monkeypatch.setattr(reporter, "write", write)
    return updates


def report(*beats: Heartbeat) -> None:
    async def run() -> None:
        async with Reporter(VIDEO, VIDEO) as running:
            for beat in beats:
                running.record_stage(beat)

    asyncio.run(run())


def test_an_update_that_the_database_refuses_is_dropped_alone(written: list[Update]) -> None:
    report(Heartbeat("bad", 0.0), Heartbeat("denoise", 1.0))
    assert [update.data["stage"] for update in written] == ["denoise"]


def test_a_job_in_the_servers_queue_waits_and_later_works_since_its_stage_began(written: list[Update]) -> None:
    report(Heartbeat("queue", 9.0, ahead=1), Heartbeat("prepare", 2.5))
    assert [(update.waits, update.worked_s) for update in written] == [(True, 9.0), (False, 2.5)]
