"""An attempt that another one overtook: it stops, and changes no file of the job."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from wan_t2v_gateway.storage.store import Store

from tests.fakes.scripted_server import MADE, VIDEO, serving
from tests.unit.gateway.generation.stored_files import stored_files
from tests.unit.gateway.stepwise import StepwiseServer, mp4, serving_stepwise
from tests.waiting import wait_until

Start = Callable[..., Any]
OVERTAKEN = "UPDATE videos SET attempt = attempt + 1"
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05}


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def begun(start: Start, server: StepwiseServer, database: Any) -> tuple[Any, str]:
    """A gateway, and its video of which one step is done and recorded."""
    gateway = start(server_url=server.url, **QUICK)
    video_id = gateway.post()
    assert server.began.wait(60)
    server.step(1)
    wait_until(lambda: database.execute("SELECT FROM video_events WHERE kind = 'step'").rowcount)
    return gateway, video_id


def test_it_stops_at_the_server_when_it_learns_that_it_was_overtaken(start: Start, database: Any) -> None:
    with serving_stepwise() as server:
        begun(start, server, database)
        database.execute(OVERTAKEN)

        def left_after_another_step() -> bool:
            server.step(2)  # again and again: a silent server would be left anyway
            return server.cancelled.is_set()

        wait_until(left_after_another_step)
        wait_until(lambda: not database.execute("SELECT FROM procrastinate_jobs WHERE status = 'doing'").rowcount)
        assert database.execute("SELECT status, attempt FROM videos").fetchall() == [("in_progress", 2)]


def test_it_stores_nothing_if_it_learns_so_only_at_the_end(
    start: Start, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []

    async def count(self: Store, folder: str, variant: str, data: bytes) -> None:
        stored.append(folder)

    monkeypatch.setattr(Store, "put", count)
    with serving_stepwise() as server:
        begun(start, server, database)
        database.execute(OVERTAKEN)
        server.finish()
        wait_until(lambda: not database.execute("SELECT FROM procrastinate_jobs WHERE status = 'doing'").rowcount)
    assert not stored


@pytest.mark.parametrize("meanwhile", [OVERTAKEN, "DELETE FROM videos"])
def test_files_that_it_stored_while_it_was_overtaken_or_the_job_was_deleted_go(
    start: Start, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    put, stored = Store.put, []

    async def overtaken(self: Store, folder: str, variant: str, data: bytes) -> None:
        await put(self, folder, variant, data)
        database.execute(meanwhile if not stored else "SELECT 1")
        stored.append(folder)

    monkeypatch.setattr(Store, "put", overtaken)
    with serving_stepwise() as server:
        begun(start, server, database)
        server.finish()
        wait_until(lambda: not database.execute("SELECT FROM procrastinate_jobs WHERE status = 'doing'").rowcount)
        assert len(stored) == 3
        wait_until(lambda: stored_files(tmp_path) == [])


def test_the_files_of_the_attempt_that_ended_stay_as_recorded(
    start: Start, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt ends while the first stores its files."""
    put, stored = Store.put, []

    async def second_ends(self: Store, folder: str, variant: str, data: bytes) -> None:
        if not stored:
            await put(self, f"{folder[:-2]}/2", "video", VIDEO)
            database.execute(
                "UPDATE videos SET attempt = 2, status = 'completed', completed_at = now(), folder = id || '/2', "
                "folders = folders || (id || '/2'), sha256 = %s",
                [hashlib.sha256(VIDEO).hexdigest()],
            )
        stored.append(folder)
        await put(self, folder, variant, data)

    monkeypatch.setattr(Store, "put", second_ends)
    with serving_stepwise() as server:
        gateway, video_id = begun(start, server, database)
        server.finish()
        wait_until(lambda: not database.execute("SELECT FROM procrastinate_jobs WHERE status = 'doing'").rowcount)
        content = gateway.http.get(f"/v1/videos/{video_id}/content").content
        assert content == VIDEO != mp4() and gateway.video(video_id)["sha256"] == hashlib.sha256(VIDEO).hexdigest()
        wait_until(lambda: stored_files(tmp_path) == [f"{video_id}/2/video.mp4"])
        assert gateway.http.delete(f"/v1/videos/{video_id}").json()["deleted"]
        assert stored_files(tmp_path) == []


def test_a_record_of_an_older_gateway_has_its_files_in_the_ids_folder(
    start: Start, database: Any, tmp_path: Path
) -> None:
    with serving(MADE) as server:
        gateway = start(server_url=server.url, **QUICK)
        video_id = gateway.post()
        gateway.until(video_id, "completed")
    folder = tmp_path / "files" / video_id
    (folder / "1/video.mp4").rename(folder / "video.mp4")
    for column in ("folder", "folders", "outage_s"):  # as an older gateway left the table
        database.execute(f"ALTER TABLE videos DROP COLUMN {column}")
    newer = start(workers=0)
    assert newer.http.get(f"/v1/videos/{video_id}/content").content == VIDEO
    assert newer.http.delete(f"/v1/videos/{video_id}").json()["deleted"]
    assert stored_files(tmp_path) == []
