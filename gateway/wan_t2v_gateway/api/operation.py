"""The queue as a whole, and what owners use: `/v1/queue`, `/v1/usage`."""

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
    """How many jobs wait and run, of all owners, and whether the queue is paused."""
    return JSONResponse(await _queue_document(gateway))


@router.post("/v1/queue/pause", openapi_extra=PAUSE)
async def pause_queue(request: Request, gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """No job begins any more; those under way go on. For an administrator."""
    _check_administrator(owner)
    await switches.pause(gateway.services.database, _reason(await read_body(request)))
    return JSONResponse(await _queue_document(gateway))


@router.post("/v1/queue/resume")
async def resume_queue(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Jobs begin again. For an administrator."""
    _check_administrator(owner)
    await switches.resume(gateway.services.database)
    return JSONResponse(await _queue_document(gateway))


@router.get("/v1/usage")
async def get_usage(gateway: TheGateway, owner: TheOwner) -> JSONResponse:
    """Jobs, seconds of generation and files: your own, or every owner's for an administrator."""
    return JSONResponse({"object": "list", "data": await usage(gateway.services.database, owner.sees)})


def _reason(given: dict[str, Any]) -> str:
    """Why the queue is paused, for those who wait."""
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
