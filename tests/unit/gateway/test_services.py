"""What ended goes when it has expired, whatever its end was, and one file that stays keeps nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway import services
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.queue import lost_jobs
from wan_t2v_gateway.queue.tasks import Queue, queue_app
from wan_t2v_gateway.services import Services
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import StorageUnavailable, Store

from tests.fakes.scripted_server import MADE, Refusal, serving
from tests.waiting import wait_until

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05}


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_jobs, "_EXPIRY_LOOKS", 2)


def failed_and_cancelled(gateway: Any) -> tuple[str, str]:
    failed = gateway.post()
    gateway.until(failed, "failed")
    gateway.http.post("/v1/queue/pause", json={})
    cancelled = gateway.post()
    gateway.http.post(f"/v1/videos/{cancelled}/cancel")
    gateway.until(cancelled, "cancelled")
    return failed, cancelled


def test_failed_and_cancelled_jobs_expire_and_leave_nothing_in_the_queue(start: Start, database: Any) -> None:
    with serving((Refusal("INTERNAL", "broken"),)) as server:
        gateway = start(server_url=server.url, keep_s=3600.0, **QUICK)
        for video_id in failed_and_cancelled(gateway):
            assert gateway.video(video_id)["expires_at"] == gateway.video(video_id)["ended_at"] + 3600
        assert gateway.http.delete(f"/v1/videos/{gateway.post()}").json()["deleted"]
        wait_until(lambda: database.execute("SELECT FROM procrastinate_jobs").rowcount == 0)
        assert database.execute("SELECT FROM procrastinate_events").rowcount == 0
        database.execute("UPDATE videos SET expires_at = now()")
        wait_until(lambda: database.execute("SELECT FROM videos").rowcount == 0)
        assert database.execute("SELECT FROM video_events").rowcount == 0


def test_what_an_older_gateway_ended_without_an_expiry_goes_too(start: Start, database: Any) -> None:
    with serving((Refusal("INTERNAL", "broken"),)) as server:
        gateway = start(server_url=server.url, keep_s=3600.0, **QUICK)
        failed_and_cancelled(gateway)
        waiting = gateway.post()
        database.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('videos', 'generate', 'cancelled')"
        )
        old = "UPDATE videos SET expires_at = NULL, completed_at = completed_at - interval '2 hours'"
        database.execute(old)
        wait_until(lambda: database.execute("SELECT FROM videos").rowcount == 1)
        wait_until(lambda: database.execute("SELECT FROM procrastinate_jobs").rowcount == 1)
        assert gateway.video(waiting)["status"] == "queued"


def test_files_that_cannot_be_deleted_keep_no_others(
    start: Start, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than one look tries."""
    remove, stuck = Store.remove, set[str]()

    async def refuse(self: Store, folder: str) -> None:
        if folder.partition("/")[0] in stuck:
            raise StorageUnavailable("the store does not delete")
        await remove(self, folder)

    monkeypatch.setattr(Store, "remove", refuse)
    monkeypatch.setattr(services, "_MOST_FAILURES", 2)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        ids = [gateway.post() for _ in range(6)]
        for video_id in ids:
            gateway.until(video_id, "completed")
        stuck.update(ids[:3])
        database.execute("INSERT INTO work (owner, status, seconds, ended_at) VALUES ('old', 'x', 1, '2020-01-01')")
        database.execute("UPDATE videos SET expires_at = now()")
        wait_until(lambda: database.execute("SELECT FROM videos").rowcount == 3)
        wait_until(lambda: not database.execute("SELECT FROM work WHERE owner = 'old'").rowcount)
        stuck.clear()
        wait_until(lambda: database.execute("SELECT FROM videos").rowcount == 0)
    assert not list((tmp_path / "files").rglob("*"))


def removed(url: str, folder: Path, settings: Settings, kind: str) -> int:
    """How many jobs `remove_expired` or `remove_excess` removes."""

    async def remove() -> int:
        async with Database(url) as records:
            services = Services(settings, records, Queue(queue_app(url)), Store("", folder=folder))
            return int(await getattr(services, kind)())

    return asyncio.run(remove())


def test_one_look_removes_all_but_those_that_cannot_be_deleted(
    start: Start, database: Any, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(workers=0, heartbeat_s=3600.0)
    ids = [gateway.post() for _ in range(6)]
    database.execute("UPDATE videos SET status = 'failed', completed_at = now(), expires_at = now()")

    async def refuse(self: Store, folder: str) -> None:
        if folder in ids[:3]:
            raise StorageUnavailable("the store does not delete")

    monkeypatch.setattr(Store, "remove", refuse)
    assert removed(database_url, tmp_path, Settings(), "remove_expired") == 3
    assert {video_id for (video_id,) in database.execute("SELECT id FROM videos").fetchall()} == set(ids[:3])


def test_more_than_one_look_finds_go_without_a_pause(
    start: Start, database: Any, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(workers=0, heartbeat_s=3600.0)
    for _ in range(5):
        gateway.post()
    database.execute("UPDATE videos SET status = 'failed', completed_at = now(), expires_at = now()")
    monkeypatch.setattr(services, "_LOOK_ROWS", 2)
    assert removed(database_url, tmp_path, Settings(), "remove_expired") == 5


def test_videos_beyond_the_size_limit_go_whatever_else_has_expired(
    start: Start, database: Any, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(workers=0, heartbeat_s=3600.0)
    ids = [gateway.post() for _ in range(6)]
    database.execute("UPDATE videos SET status = 'failed', completed_at = now(), expires_at = now()")
    large = "UPDATE videos SET status = 'completed', bytes = 10, expires_at = now() + interval '1 day' WHERE id = %s"
    database.execute(large, [ids[2]])
    monkeypatch.setattr(services, "_LOOK_ROWS", 1)
    assert removed(database_url, tmp_path, Settings(keep_bytes=10), "remove_excess") == 0
    assert removed(database_url, tmp_path, Settings(keep_bytes=9), "remove_excess") == 1
    assert not database.execute("SELECT FROM videos WHERE id = %s", [ids[2]]).rowcount


def test_a_cancelled_job_leaves_the_queue_at_once(start: Start, database: Any) -> None:
    gateway = start(workers=0, heartbeat_s=3600.0)  # no check tidies up
    gateway.http.post(f"/v1/videos/{gateway.post()}/cancel")
    assert database.execute("SELECT FROM procrastinate_jobs").rowcount == 0


def test_files_that_an_attempt_stores_during_the_removal_go_too(
    start: Start, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends between the look at its record and the record's removal."""
    gateway, remove = start(workers=0), Store.remove
    video_id = gateway.post()

    async def ends_meanwhile(self: Store, folder: str) -> None:
        await remove(self, folder)
        if folder == video_id:
            await self.put(f"{video_id}/1", "video", b"an MP4")
            database.execute("UPDATE videos SET status = 'completed', folder = id || '/1', folders = ARRAY[id || '/1']")

    monkeypatch.setattr(Store, "remove", ends_meanwhile)
    assert gateway.http.delete(f"/v1/videos/{video_id}").json()["deleted"]
    assert not list((tmp_path / "files").rglob("*.mp4"))
