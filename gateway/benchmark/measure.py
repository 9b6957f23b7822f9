"""The measurements, each with its own database."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg

from gateway.benchmark.process import RunningGateway, database, folder, gateway
from gateway.benchmark.stand_in import StandIn, serving


def spread(values: list[float]) -> dict[str, float]:
    """Summarise seconds as p50, p99 and maximum, in milliseconds."""
    p50, p99 = np.percentile(np.array(values) * 1000, [50, 99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "max_ms": round(max(values) * 1000, 2)}


def client(running: RunningGateway) -> httpx.AsyncClient:
    """Make an HTTP client without a proxy and without a limit on connections."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=120, limits=limits)


async def events(http: httpx.AsyncClient, video_id: str) -> AsyncIterator[tuple[str, dict[str, Any], float]]:
    """Yield kind, data and time of arrival of each of a video's events."""
    async with http.stream("GET", f"/v1/videos/{video_id}/events") as answer:
        kind = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value), time.perf_counter()


async def post(http: httpx.AsyncClient, prompt: str = "a red ball") -> str:
    """Create a job and return its id."""
    answer = await http.post("/v1/videos", json={"prompt": prompt})
    answer.raise_for_status()
    return str(answer.json()["id"])


def added_to_a_video(video: bytes, repeats: int) -> dict[str, Any]:
    """Measure the gateway's time before the first step and after the last frame, one video at a time."""

    async def run(running: RunningGateway, server: StandIn) -> dict[str, Any]:
        called, first_step, completed = [], [], []
        async with client(running) as http:
            for number in range(repeats + 3):
                begin = time.perf_counter()
                async for kind, _, at in events(http, await post(http)):
                    if kind == "step":
                        step_at = at
                if number < 3:  # warm-up: connections are opened, statements prepared
                    continue
                called.append(server.called[-1] - begin)
                first_step.append(step_at - begin)
                completed.append(at - server.last_word)
        return {
            "videos": repeats,
            "video_bytes": len(video),
            "post_to_server_called": spread(called),
            "post_to_first_step_event": spread(first_step),
            "last_frame_to_completed_event": spread(completed),
        }

    with (
        folder() as data,
        database(data) as url,
        serving(video) as server,
        gateway(data, url, server.url) as running,
    ):
        return asyncio.run(run(running, server))


def queue_alone(video: bytes, jobs: int) -> dict[str, Any]:
    """Measure the jobs per second that the gateway accepts, and that a worker process finishes without generation."""

    async def fill(running: RunningGateway) -> float:
        begin = time.perf_counter()
        async with client(running) as http:
            waiting = asyncio.Semaphore(8)

            async def one(number: int) -> None:
                async with waiting:
                    await post(http, str(number))

            await asyncio.gather(*(one(number) for number in range(jobs)))
        return jobs / (time.perf_counter() - begin)

    with folder() as data, database(data) as url, serving(video) as server:
        with gateway(data, url, server.url, workers=0) as running:
            created = asyncio.run(fill(running))
        with gateway(data, url, server.url, workers=8):
            _until(url, "SELECT count(*) FILTER (WHERE completed_at IS NOT NULL) >= 8 FROM videos")
            _until(url, "SELECT bool_and(status = 'completed') FROM videos")
        with psycopg.connect(url) as connection:
            query = "SELECT extract(epoch FROM max(completed_at) - min(started_at))::float8 FROM videos"
            ((seconds,),) = connection.execute(query).fetchall()
    return {"jobs": jobs, "created_per_s": round(created, 1), "done_per_s": round(jobs / seconds, 1), "at_a_time": 8}


def _until(url: str, query: Any) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            ((holds,),) = connection.execute(query).fetchall()
            if holds:
                return
            time.sleep(0.05)


RECORDS = """
INSERT INTO videos
    (id, owner, status, model, fields, turn, attempt, created_at, started_at, completed_at, bytes, metadata)
SELECT 'video_' || number, 'local', 'completed', 'wan2.2-t2v', '{"prompt": "a red ball", "seed": 7}', number, 1,
       now() - (20000 - number) * interval '1 second', now(), now(), 500000,
       '{"settings": {"num_frames": 81, "height": 480, "width": 832, "seed": 7}}'
FROM generate_series(1, %s) AS number
"""


def reading(records: int, repeats: int) -> dict[str, Any]:
    """Measure the latency of GETs with `records` jobs on record."""

    async def times(http: httpx.AsyncClient, path: Callable[[int], str]) -> dict[str, float]:
        taken = []
        for number in range(repeats + 20):
            begin = time.perf_counter()
            (await http.get(path(number))).raise_for_status()
            taken.append(time.perf_counter() - begin)
        return spread(taken[20:])

    async def run(running: RunningGateway) -> dict[str, Any]:
        async with client(running) as http:
            return {
                "records": records,
                "requests": repeats,
                "get_one": await times(http, lambda number: f"/v1/videos/video_{1 + number * 7919 % records}"),
                "get_list": await times(http, lambda number: "/v1/videos?limit=20"),
                "get_list_of_a_state": await times(http, lambda number: "/v1/videos?status=completed&after=video_5000"),
                "metrics": await times(http, lambda number: "/metrics"),
            }

    with folder() as data, database(data) as url, gateway(data, url, "127.0.0.1:1", workers=0) as running:
        with psycopg.connect(url) as connection:
            connection.execute(RECORDS, [records])
        return asyncio.run(run(running))


def many_streams(video: bytes, streams: int) -> dict[str, Any]:
    """Measure the delay of events and the latency of GETs while `streams` callers watch a video of twenty steps."""

    async def watch(http: httpx.AsyncClient, video_id: str, server: StandIn, opened: asyncio.Semaphore) -> list[float]:
        late = []
        async for kind, data, at in events(http, video_id):
            if kind == "queued":
                opened.release()
            elif kind == "step":
                late.append(at - server.told[data["step"]])
        return late

    async def run(running: RunningGateway, server: StandIn) -> dict[str, Any]:
        opened, gets = asyncio.Semaphore(0), []
        async with client(running) as http:
            video_id = await post(http)
            watchers = [asyncio.create_task(watch(http, video_id, server, opened)) for _ in range(streams)]
            for _ in range(streams):
                await opened.acquire()
            server.go.set()
            while not all(watcher.done() for watcher in watchers):
                begin = time.perf_counter()
                (await http.get(f"/v1/videos/{video_id}")).raise_for_status()
                gets.append(time.perf_counter() - begin)
                await asyncio.sleep(0.02)
            late = [value for watcher in watchers for value in await watcher]
        return {"streams": streams, "events": len(late), "step_to_event": spread(late), "get_meanwhile": spread(gets)}

    with folder() as data, database(data) as url, serving(video, steps=20, step_s=0.25) as server:
        server.go.clear()
        with gateway(data, url, server.url) as running:
            return asyncio.run(run(running, server))


def video_of(path: Path | None) -> bytes:
    """Return the MP4 that each job stores: the given one, or a small one."""
    if path is not None:
        return path.read_bytes()
    from tests.unit.gateway.stepwise import mp4

    return mp4()
