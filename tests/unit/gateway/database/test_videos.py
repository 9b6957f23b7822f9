"""The estimate of a job's wait."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.videos import _wait_s

UNIT_S = 100_000.0  # so long that the time of a test does not matter
RECORD = (
    "INSERT INTO videos (id, owner, model, fields, turn, status, started_at, completed_at) "
    "VALUES (%s, 'a', '', '{}', 0, %s, now() - %s * interval '1 second', now())"
)


@pytest.mark.parametrize(
    ("running", "waits"),
    [
        ((), (0.0, 1.0, 2.0)),
        ((0.25,), (0.75, 1.75, 2.75)),
        ((0.1, 0.6, 3.0), (0.0, 0.4, 0.9, 1.0, 1.4, 1.9, 2.0)),  # one takes longer than others
    ],
)
def test_a_job_begins_when_as_many_places_became_free_as_jobs_are_ahead_of_it(
    database_url: str, running: tuple[float, ...], waits: tuple[float, ...]
) -> None:
    async def test() -> list[float | None]:
        async with Database(database_url) as database:
            assert await _wait_s(database, 5) is None
            await database.rows(RECORD, ["done", "completed", UNIT_S])
            for since in running:
                await database.rows(RECORD, [f"running {since}", "in_progress", since * UNIT_S])
            return [await _wait_s(database, ahead) for ahead in range(len(waits))]

    assert asyncio.run(test()) == [pytest.approx(wait * UNIT_S, abs=0.02 * UNIT_S) for wait in waits]


def test_the_document_of_a_waiting_job_has_it(start: Callable[..., Any], database_url: str) -> None:
    gateway = start(workers=0)
    first, second = gateway.post(), gateway.post()

    async def complete_one() -> None:
        async with Database(database_url) as database:
            await database.rows(RECORD, ["done", "completed", UNIT_S])

    asyncio.run(complete_one())
    assert [gateway.video(video_id)["queue"]["wait_s"] for video_id in (first, second)] == [0.0, UNIT_S]
