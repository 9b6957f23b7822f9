"""Liveness, readiness and metrics: `/healthz`, `/readyz`, `/metrics`."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from wan_t2v_gateway.api.state import TheGateway
from wan_t2v_gateway.database import switches
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.metrics import Records

router = APIRouter(tags=["operation"])
_JOBS = (
    "SELECT status, coalesce(class, '') AS class, count(*) AS number, sum(bytes)::bigint AS bytes, "
    "coalesce(max(extract(epoch FROM now() - videos.created_at)) FILTER (WHERE status = 'queued'), 0)::float8 AS "
    "oldest_s FROM videos LEFT JOIN owners ON owners.name = owner GROUP BY 1, 2"
)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """Answer `ok` if this process is alive."""
    return "ok\n"


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_class=PlainTextResponse)
async def readyz(gateway: TheGateway) -> str:
    """Answer `ready` if database and server answer, and the server's limits are known."""
    await gateway.services.database.row("SELECT 1")
    await gateway.limits.ready()
    await gateway.limits.read()
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(gateway: TheGateway) -> str:
    """Return metrics in Prometheus' text format. Those from the database are the same at every gateway."""
    records = await _records(gateway.services.database)
    return "\n".join([*records.lines(), *gateway.services.measurements.lines()]) + "\n"


async def _records(database: Database) -> Records:
    rows = await database.rows(_JOBS)
    classes = await database.rows("SELECT DISTINCT class FROM owners ORDER BY 1")
    return Records(
        jobs={(row["status"], row["class"]): row["number"] for row in rows},
        classes=tuple(row["class"] for row in classes),
        oldest_queued_s=max((row["oldest_s"] for row in rows), default=0.0),
        paused=await switches.is_paused(database),
        stored_bytes=sum(row["bytes"] for row in rows),
    )
