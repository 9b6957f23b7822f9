"""State of the whole queue, and the owners' usage: `/v1/queue`, `/v1/usage`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from wan_t2v_gateway.api.body import read_body
from wan_t2v_gateway.api.errors import ApiError, InvalidField
from wan_t2v_gateway.api.openapi import PAUSE
from wan_t2v_gateway.api.state import Gateway, TheGateway, TheOwner
from wan_t2v_gateway.database import switches
from wan_t2v_gateway.database.owners import Owner
from wan_t2v_gateway.database.usage import usage

router = APIRouter(tags=["operation"])
_LONGEST_REASON = 500


@router.get("/v1/queue")
async def get_queue(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Return the numbers of waiting and running jobs of all owners, and whether the queue is paused."""
    return JSONResponse(await _queue_document(gateway))


@router.post("/v1/queue/pause", openapi_extra=PAUSE)
async def pause_queue(request: Request, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Pause the queue: no job begins, running ones continue. For administrators."""
    _check_administrator(owner)
    await switches.pause(gateway.services.database, _reason(await read_body(request)))
    return JSONResponse(await _queue_document(gateway))


@router.post("/v1/queue/resume")
async def resume_queue(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Resume the queue: jobs begin again. For administrators."""
    _check_administrator(owner)
    await switches.resume(gateway.services.database)
    return JSONResponse(await _queue_document(gateway))


@router.get("/v1/usage")
async def get_usage(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Return jobs, seconds of generation and files: your own, or those of all owners for an administrator."""
    return JSONResponse({"object": "list", "data": await usage(gateway.services.database, owner.sees)})


def _reason(given: dict[str, Any]) -> str:
    """Check the body's `reason` for a pause, which waiting callers see. Raises InvalidField."""
    for name in given.keys() - {"reason"}:
        raise InvalidField(name[:64], "an unknown field", "reason")
    reason = given.get("reason", "")
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON:
        raise InvalidField("reason", "no text, or a long one", f"a text of at most {_LONGEST_REASON} characters")
    return reason


def _check_administrator(owner: Owner) -> None:
    if not owner.administrator:
        raise ApiError(403, "an administrator's key is needed")


async def _queue_document(gateway: Gateway) -> dict[str, Any]:
    state = await switches.queue_state(gateway.services.database)
    return {
        "object": "queue",
        "queued": state.queued,
        "in_progress": state.in_progress,
        "paused": state.paused,
        "paused_since": None if state.since is None else int(state.since.timestamp()),
        "reason": state.reason,
    }
