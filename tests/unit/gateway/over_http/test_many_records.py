"""What is asked at every request looks at few records, however many there are."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.database.creation import _INSERT
from wan_t2v_gateway.database.ending import _FORGET_NEVER_BEGUN

from gateway.benchmark.database_cost import SCANS
from gateway.benchmark.measure import RECORDS


@pytest.fixture
def many(start: Callable[..., Any], database_url: str) -> Any:
    start(workers=0)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(RECORDS, [20_000])
        connection.execute("VACUUM ANALYZE videos")
        yield connection


def plan(connection: Any, query: str, arguments: Any = None) -> str:
    return "\n".join(line for (line,) in connection.execute(f"EXPLAIN {query}", arguments).fetchall())


def test_wait_list_and_the_next_turn_are_found_by_an_index(many: Any) -> None:
    for name in ("wait_estimate_ms", "list_ms", "next_turn_ms"):
        assert "Seq Scan" not in plan(many, SCANS[name]), name


def test_a_new_job_is_put_into_its_turn_by_an_index(many: Any) -> None:
    arguments = {**dict.fromkeys(re.findall(r"%\((\w+)\)s", _INSERT)), "owner": "local"}
    assert "Seq Scan" not in plan(many, _INSERT, arguments)


def test_a_removed_videos_webhooks_and_an_owners_jobs_that_never_began_are_found_by_an_index(many: Any) -> None:
    many.execute(
        "INSERT INTO webhooks (id, video_id, owner, url, body) SELECT number, number, 'a', '', '' "
        "FROM generate_series(1, 20000) AS number"
    )
    many.execute("VACUUM ANALYZE webhooks")
    assert "Seq Scan" not in plan(many, "DELETE FROM webhooks WHERE video_id = 'x'")
    assert "Seq Scan" not in plan(many, _FORGET_NEVER_BEGUN, ["local", 1000])


def test_watchers_share_looks_that_began_after_they_came() -> None:
    from wan_t2v_gateway.database.listener import SharedLooks

    async def watch() -> None:
        looks, begun, go = SharedLooks(), [], asyncio.Event()

        async def question() -> int:
            begun.append(None)
            number = len(begun)
            await go.wait()
            return number

        early = [asyncio.create_task(looks.ask("video", question)) for _ in range(50)]
        while not begun:
            await asyncio.sleep(0)
        late = [asyncio.create_task(looks.ask("video", question)) for _ in range(50)]
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*early, *late) == [1] * 50 + [2] * 50

    asyncio.run(watch())
