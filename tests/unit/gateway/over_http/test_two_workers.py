"""Two workers, five owners, and one worker that is killed in the middle: every job ends once, and shares are even."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fakes.scripted_server import Pause, Step, Video, serving
from tests.unit.gateway.worker_process import worker_process

OWNERS = ("ada", "ben", "cleo", "dan", "eva")
ONE_STEP = (Step(1), Pause(0.02), Video())
QUICK = {"heartbeat_s": 0.3, "stalled_s": 2.0, "retry_s": 0.05, "poll_s": 0.05}


@pytest.mark.parametrize("jobs_each", [8, pytest.param(40, marks=pytest.mark.nightly)])
def test_every_job_ends_once_although_a_worker_is_killed(
    start: Callable[..., Any], database_url: str, tmp_path: Path, jobs_each: int
) -> None:
    jobs = jobs_each * len(OWNERS)
    with serving(ONE_STEP) as server, psycopg.connect(database_url, autocommit=True) as database:
        front = start(server_url=server.url, workers=0, **QUICK)
        for owner, key in keys_of(database_url).items():  # one owner after the other: fairness has something to do
            for number in range(jobs_each):
                front.post({"authorization": f"Bearer {key}"}, prompt=f"{owner} {number}")
        shared = {"database_url": database_url, "data": tmp_path, "server_url": server.url, **QUICK}
        others = workers(database)
        with worker_process(**shared) as victim:
            until(lambda: len(workers(database) - others) == 2)  # for videos and for webhooks
            victims = workers(database) - others
            with worker_process(**shared):
                until(lambda: len(workers(database) - others) == 4)
                until(lambda: ended(database) >= jobs // 2)
                kill_at_work(victim, lambda: at_work(database, victims))
                shares = Counter(owner for (owner,) in first_ended(database, jobs // 2))
                until(lambda: ended(database) == jobs)
                until(lambda: not database.execute("SELECT FROM procrastinate_jobs").fetchall())
        print(f"{jobs} jobs, of the first {jobs // 2}: {dict(sorted(shares.items()))}")
        assert Counter(outcomes(database)) == {("completed", 1): jobs}
        assert jobs <= len(server.requests) <= jobs + 1  # the killed worker's job, and no other, may be made again
        assert set(server.prompts()) == {f"{owner} {number}" for owner in OWNERS for number in range(jobs_each)}
        assert max(shares.values()) - min(shares.values()) <= 2 and len(shares) == len(OWNERS)


def keys_of(database_url: str) -> dict[str, str]:
    from wan_t2v_gateway.database.owners import make_key
    from wan_t2v_gateway.database.pool import Database

    async def make() -> dict[str, str]:
        database = Database(database_url)
        await database.open()
        made = {owner: await make_key(database, owner) for owner in OWNERS}
        await database.close()
        return made

    return asyncio.run(make())


def workers(database: Any) -> set[int]:
    return {number for (number,) in database.execute("SELECT id FROM procrastinate_workers").fetchall()}


def ended(database: Any) -> int:
    return int(database.execute("SELECT count(*) FROM videos WHERE completed_at IS NOT NULL").fetchone()[0])


def first_ended(database: Any, number: int) -> list[tuple[str]]:
    query = "SELECT owner FROM videos WHERE completed_at IS NOT NULL ORDER BY completed_at LIMIT %s"
    return list(database.execute(query, [number]).fetchall())


def at_work(database: Any, numbers: Iterable[int]) -> bool:
    query = "SELECT FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = ANY(%s)"
    return bool(database.execute(query, [list(numbers)]).fetchall())


def outcomes(database: Any) -> list[tuple[str, int]]:
    """Of each video: its state, and how often it was told that it ended."""
    return list(
        database.execute(
            "SELECT status, (SELECT count(*) FROM video_events WHERE video_id = videos.id "
            "AND kind IN ('completed', 'failed', 'cancelled')) FROM videos"
        ).fetchall()
    )


def kill_at_work(process: subprocess.Popen[bytes], is_at_work: Callable[[], bool]) -> None:
    """Stopped first, so that it has its job still when it is killed."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        if is_at_work():
            break
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.01)
    process.kill()
    process.wait()


def until(holds: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")
