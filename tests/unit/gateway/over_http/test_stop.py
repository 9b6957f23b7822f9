"""How a gateway stops: event streams and jobs at once, files at their end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from wan_t2v_gateway import http_server
from wan_t2v_gateway.app import gateway_app
from wan_t2v_gateway.http_server import HttpServer
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import Store

from tests.fakes.scripted_server import MADE, VIDEO, Pause, Step, serving
from tests.unit.gateway.running import RunningGateway
from tests.waiting import wait_until


@contextmanager
def served(**settings: Any) -> Iterator[tuple[HttpServer, RunningGateway]]:
    server = HttpServer(gateway_app(Settings(**settings), open_access=True), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        yield server, RunningGateway(url, http)
    thread.join(60)
    assert not thread.is_alive()


def was_put_back(database_url: str, video_id: str) -> bool:
    """Whether the job waits again, and not because it was refused or its server was silent for long."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT status, outage_s FROM videos WHERE id = %s", [video_id]).fetchone()
    return row == ("queued", 0.0)


def test_a_file_comes_whole_while_event_streams_and_jobs_end(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: None
) -> None:
    rest = threading.Event()

    async def in_two_parts(*_: Any, **__: Any) -> AsyncIterator[bytes]:
        yield VIDEO[:1]
        while not rest.is_set():
            await asyncio.sleep(0.01)
        yield VIDEO[1:]

    monkeypatch.setattr(http_server, "_STOP_LIMIT_S", 60)
    monkeypatch.setattr(Store, "read", in_two_parts)
    with (
        serving(MADE, (Step(1), Pause())) as triton,
        served(database_url=database_url, data=tmp_path, server_url=triton.url) as (server, gateway),
    ):
        done = gateway.post()
        gateway.until(done, "completed")
        running = gateway.post()
        gateway.until(running, "in_progress")
        with (
            gateway.http.stream("GET", f"/v1/videos/{done}/content") as file,
            gateway.http.stream("GET", f"/v1/videos/{running}/events") as events,
        ):
            parts = file.iter_raw()
            assert next(parts) == VIDEO[:1]
            server.should_exit = True
            assert not [line for line in events.iter_lines() if line in ("event: cancelled", "event: failed")]
            wait_until(lambda: was_put_back(database_url, running))
            rest.set()
            assert b"".join(parts) == VIDEO[1:]
