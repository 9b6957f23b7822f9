"""Database load per video: log bytes and transactions are counted, so a busy machine does not change them."""

import asyncio
import os
import time
from typing import Any

import psycopg
from wan_t2v_gateway.services import EXCESS, EXPIRED

from gateway.benchmark.measure import RECORDS, client, events, post
from gateway.benchmark.process import RunningGateway, database, folder, gateway
from gateway.benchmark.stand_in import serving

PREVIEW_BYTES = 8_000  # a PNG of one pixel per latent at 480x832 (60x104), which hardly shrinks
SCANS = {
    "keeper_ms": EXCESS % ("1e15", "100"),  # nothing is too much
    "expiry_ms": EXPIRED % ("604800", "100"),  # records expire after a week
    "metrics_ms": "SELECT status, class, count(*), sum(bytes) FROM videos LEFT JOIN owners ON name = owner "
    "GROUP BY status, class",
    "wait_estimate_ms": "SELECT avg(extract(epoch FROM completed_at - started_at)) FROM (SELECT * FROM videos "
    "WHERE status = 'completed' ORDER BY completed_at DESC LIMIT 20) AS last",
    "list_ms": "SELECT * FROM videos ORDER BY created_at DESC, id DESC LIMIT 21",
    "next_turn_ms": "SELECT max(turn) + 1 FROM videos WHERE owner = 'local'",
}
_COUNTERS = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal, "
    "(SELECT sum(xact_commit)::float8 FROM pg_stat_database), pg_database_size(current_database())::float8"
)


def database_cost(video: bytes, videos: int, steps: int) -> dict[str, Any]:
    """Measure log bytes, transactions and size per video of `steps` steps, with a preview at every second step."""

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


def idle_cost(seconds: float) -> dict[str, Any]:
    """Count connections and transactions per second of an idle gateway with one worker, and of one event stream."""

    async def watch(running: RunningGateway) -> float:
        async with client(running) as http:
            video_id = await post(http)
            async with http.stream("GET", f"/v1/videos/{video_id}/events"):
                return await asyncio.to_thread(_transactions_per_s, running.database_url, seconds)

    query = "SELECT count(*)::float8 FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with folder() as data, database(data) as url:
        with gateway(data, url, "127.0.0.1:1") as running, psycopg.connect(url, autocommit=True) as connection:
            alone = _transactions_per_s(running.database_url, seconds)
            ((connections,),) = connection.execute(query).fetchall()
        with serving(b"") as server, gateway(data, url, server.url, workers=0) as running:
            front = _transactions_per_s(running.database_url, seconds)
            watched = asyncio.run(watch(running))
    return {
        "connections": int(connections) - 1,
        "transactions_per_s": round(alone, 2),
        "front_transactions_per_s": round(front, 2),
        "stream_of_a_waiting_job_transactions_per_s": round(watched - front, 2),
    }


def _transactions_per_s(url: str, seconds: float) -> float:
    query = "SELECT sum(xact_commit)::float8 FROM pg_stat_database"
    with psycopg.connect(url, autocommit=True) as connection:
        ((before,),) = connection.execute(query).fetchall()
        time.sleep(seconds)
        ((after,),) = connection.execute(query).fetchall()
    return float(after - before) / seconds


def scans(records: int) -> dict[str, Any]:
    """Time the queries that scan all records, with `records` rows; the database measures the time itself."""
    with folder() as data, database(data) as url:
        with gateway(data, url, "127.0.0.1:1", workers=0):
            pass  # its start makes the tables
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(RECORDS, [records])
            connection.execute("VACUUM ANALYZE videos")
            found = {name: _explained(connection, query) for name, query in SCANS.items()}
    return {"records": records, **found}


def _explained(connection: Any, query: str) -> float:
    """Return a query's execution time in milliseconds, the best of five."""
    plans = [connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchall()[0][0] for _ in range(5)]
    return min(round(float(plan[0]["Execution Time"]), 2) for plan in plans)


def _counters(connection: Any) -> tuple[float, ...]:
    return tuple(connection.execute(_COUNTERS).fetchall()[0])
