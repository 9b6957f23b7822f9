"""Is it alive, is it ready, and what happens: `/healthz`, `/readyz`, `/metrics`."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from wan_t2v_gateway.api.state import TheGateway

router = APIRouter(tags=["operation"])
_BY_STATE = (
    "SELECT status, count(*) AS number, coalesce(sum(bytes), 0)::bigint AS bytes, "
    "coalesce(max(extract(epoch FROM now() - created_at)) FILTER (WHERE status = 'queued'), 0)::float8 AS oldest_s "
    "FROM videos GROUP BY status"
)
_ATTEMPTS = (
    "SELECT CASE WHEN result LIKE '2%' THEN 'delivered' ELSE 'failed' END AS result, count(*) AS number "
    "FROM webhook_attempts GROUP BY 1"
)


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """This process answers."""
    return "ok\n"


@router.get("/readyz", response_class=PlainTextResponse)
async def readyz(gateway: TheGateway) -> str:
    """The database answers, and so does the server behind."""
    await gateway.services.database.row("SELECT 1")
    await gateway.limits.ready()
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(gateway: TheGateway) -> str:
    """Prometheus' text format. Figures of the database are the same from every gateway."""
    database = gateway.services.database
    rows = await database.rows(_BY_STATE)
    numbers = {row["status"]: row["number"] for row in rows}
    states = ("queued", "in_progress", "completed", "failed", "cancelled")
    lines = _metric("jobs", "gauge", "videos on record by state")
    lines += [f'wan_t2v_gateway_jobs{{status="{state}"}} {numbers.get(state, 0)}' for state in states]
    lines += _metric("oldest_queued_seconds", "gauge", "how long the first in the queue has waited")
    lines.append(f"wan_t2v_gateway_oldest_queued_seconds {max((row['oldest_s'] for row in rows), default=0)}")
    lines += _metric("stored_bytes", "gauge", "bytes of finished files")
    lines.append(f"wan_t2v_gateway_stored_bytes {sum(row['bytes'] for row in rows)}")
    lines += _metric("webhook_attempts", "gauge", "deliveries on record by result")
    attempts = await database.rows(_ATTEMPTS)
    lines += [f'wan_t2v_gateway_webhook_attempts{{result="{row["result"]}"}} {row["number"]}' for row in attempts]
    lines += gateway.services.cancel_times.lines("wan_t2v_gateway_cancel_seconds")
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP wan_t2v_gateway_{name} {text}", f"# TYPE wan_t2v_gateway_{name} {kind}"]
