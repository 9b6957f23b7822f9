"""Files of attempts that count no more go, also those that land late, and hold up neither worker nor stop."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_gateway.database.records import Video
from wan_t2v_gateway.generation import uploads
from wan_t2v_gateway.generation.run_video import VideoRunner
from wan_t2v_gateway.generation.uploads import Uploads
from wan_t2v_gateway.storage.store import StorageUnavailable, Store

from tests.fakes.scripted_server import MADE, ScriptedServer, serving
from tests.unit.gateway.generation.stored_files import stored_files
from tests.unit.gateway.running import RunningGateway, running_gateway
from tests.waiting import LIMIT_S, wait_until

Start = Callable[..., Any]
QUICK = {"heartbeat_s": 0.05, "poll_s": 0.05}


class Bucket:
    """A store whose first upload lands once `lands` is set, even if it is cancelled, and which may be `away`."""

    def __init__(self) -> None:
        self.begun, self.lands, self.landed = threading.Event(), threading.Event(), threading.Event()
        self.away = False
        self.removals = 0  # that were tried while it was away
        self._put, self._remove = Store.put, Store.remove

    async def put(self, store: Store, folder: str, variant: str, data: bytes) -> None:
        if self.begun.is_set():
            await self._put(store, folder, variant, data)
            return
        self.begun.set()
        await asyncio.shield(asyncio.create_task(self._land(store, folder, variant, data)))

    async def _land(self, store: Store, folder: str, variant: str, data: bytes) -> None:
        while not self.lands.is_set():
            await asyncio.sleep(0.01)
        await self._put(store, folder, variant, data)
        self.landed.set()

    async def remove(self, store: Store, folder: str) -> None:
        if self.away:
            self.removals += 1
            raise StorageUnavailable("the store does not delete: away")
        await self._remove(store, folder)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket()
    monkeypatch.setattr(Store, "put", lambda *arguments: bucket.put(*arguments))
    monkeypatch.setattr(Store, "remove", lambda *arguments: bucket.remove(*arguments))
    monkeypatch.setattr(uploads, "_FIRST_PAUSE_S", 0.05)
    return bucket


@pytest.fixture
def cancelling(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the worker has recorded a cancellation."""
    event, cancelled = threading.Event(), VideoRunner._cancelled

    async def noted(self: VideoRunner, video: Video) -> None:
        await cancelled(self, video)
        event.set()

    monkeypatch.setattr(VideoRunner, "_cancelled", noted)
    return event


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(MADE) as server:
        yield server


def stop_while_uploading(gateway: RunningGateway, bucket: Bucket, how: str = "delete") -> str:
    """The id of a job that was deleted or cancelled while its first file was on its way."""
    video_id = gateway.post()
    assert bucket.begun.wait(LIMIT_S)
    address = f"/v1/videos/{video_id}"
    answer = gateway.http.delete(address) if how == "delete" else gateway.http.post(f"{address}/cancel")
    assert answer.status_code == 200
    return video_id


@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_file_that_lands_after_the_cancellation_goes_and_the_worker_takes_the_next_job_before(
    start: Start, server: ScriptedServer, bucket: Bucket, tmp_path: Path, how: str
) -> None:
    gateway = start(server_url=server.url, **QUICK)
    stop_while_uploading(gateway, bucket, how)
    following = gateway.post()
    gateway.until(following, "completed")
    bucket.lands.set()
    assert bucket.landed.wait(LIMIT_S)
    wait_until(lambda: all(name.startswith(following) for name in stored_files(tmp_path)))


def test_a_deleted_jobs_file_goes_once_the_store_is_back(
    start: Start, server: ScriptedServer, bucket: Bucket, cancelling: threading.Event, tmp_path: Path
) -> None:
    gateway = start(server_url=server.url, **QUICK)
    stop_while_uploading(gateway, bucket)
    assert cancelling.wait(LIMIT_S)
    bucket.away = True
    bucket.lands.set()
    wait_until(lambda: bucket.removals >= 3)
    assert len(stored_files(tmp_path)) == 1
    bucket.away = False
    wait_until(lambda: stored_files(tmp_path) == [])


def test_a_cancelled_jobs_file_that_stays_goes_with_the_record(
    start: Start, server: ScriptedServer, bucket: Bucket, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gateway = start(server_url=server.url, **QUICK)
    bucket.away = True
    video_id = stop_while_uploading(gateway, bucket, "cancel")
    bucket.lands.set()
    wait_until(lambda: f"files in {video_id}/1 stay until their video's record goes" in caplog.text)
    bucket.away = False
    assert gateway.http.delete(f"/v1/videos/{video_id}").json()["deleted"]
    assert stored_files(tmp_path) == []


def stopping(server: ScriptedServer, database_url: str, folder: Path) -> Any:
    return running_gateway(database_url=database_url, data=folder, server_url=server.url, **QUICK)


def test_a_gateway_that_stops_waits_for_the_last_file_and_removes_it(
    database_url: str,
    server: ScriptedServer,
    bucket: Bucket,
    cancelling: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    close = Uploads.close

    async def lands_meanwhile(self: Uploads) -> None:
        asyncio.get_running_loop().call_later(0.1, bucket.lands.set)
        await close(self)

    monkeypatch.setattr(Uploads, "close", lands_meanwhile)
    with stopping(server, database_url, tmp_path) as gateway:
        stop_while_uploading(gateway, bucket)
        assert cancelling.wait(LIMIT_S)
    assert bucket.landed.is_set() and stored_files(tmp_path) == []


def test_a_gateway_that_stops_names_the_folder_of_a_file_that_is_still_on_its_way(
    database_url: str,
    server: ScriptedServer,
    bucket: Bucket,
    cancelling: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(uploads, "_STOP_LIMIT_S", 0.1)
    with stopping(server, database_url, tmp_path) as gateway, caplog.at_level(logging.WARNING):
        video_id = stop_while_uploading(gateway, bucket)
        assert cancelling.wait(LIMIT_S)
    assert f"before the files in {video_id}/1 were removed" in caplog.text
