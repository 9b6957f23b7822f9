"""What a video costs the database: counted and not timed, so a busy machine does not change it."""

import asyncio
import os
from typing import Any

import psycopg

from gateway.benchmark.measure import client, events, post
from gateway.benchmark.process import RunningGateway, database, folder, gateway
from gateway.benchmark.stand_in import serving

PREVIEW_BYTES = 8_000  # a PNG of one pixel per latent at 480x832 (60x104), which hardly shrinks
_COUNTERS = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal, "
    "(SELECT sum(xact_commit)::float8 FROM pg_stat_database), pg_database_size(current_database())::float8"
)


def database_cost(video: bytes, videos: int, steps: int) -> dict[str, Any]:
    """Log, transactions and size per video of so many steps with a preview each second step, and of an idle gateway."""

    async def run(running: RunningGateway, number: int) -> None:
        async with client(running) as http:
            for _ in range(number):
                async for _ in events(http, await post(http)):
                    pass

    with (
        folder() as data,
        database(data) as url,
        serving(video, steps=steps, step_s=0.02, preview=os.urandom(PREVIEW_BYTES)) as server,
        gateway(data, url, server.url) as running,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        asyncio.run(run(running, 1))
        before = _counters(connection)
        asyncio.run(run(running, videos))
        connection.execute("SELECT pg_stat_force_next_flush()")
        after = _counters(connection)
        ((rows, size),) = connection.execute(
            "SELECT count(*)::float8, pg_total_relation_size('video_events')::float8 FROM video_events"
        ).fetchall()
    wal, commits, grown = ((late - early) / videos for early, late in zip(before, after, strict=True))
    return {
        "videos": videos,
        "steps": steps,
        "preview_bytes": PREVIEW_BYTES,
        "log_bytes_per_video": round(wal),
        "log_bytes_per_step": round(wal / steps),
        "transactions_per_video": round(commits),
        "kept_bytes_per_video": round(grown),
        "events_per_video": round(rows / (videos + 1), 1),
        "bytes_per_event": round(size / rows),
    }


def _counters(connection: Any) -> tuple[float, ...]:
    return tuple(connection.execute(_COUNTERS).fetchall()[0])
