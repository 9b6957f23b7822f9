"""Whether the server takes videos: asked before a job begins, and by `/readyz`."""

from wan_t2v_client import Connection
from wan_t2v_client.streaming import STREAM_MODEL

_ANSWER_LIMIT_S = 1.5
_AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


async def ask_ready(connection: Connection) -> bool:
    """Ask the server whether its streaming endpoint is ready. Raises any error of tritonclient without an answer."""
    client = connection.open_asyncio()
    try:
        return bool(await client.is_model_ready(STREAM_MODEL, client_timeout=_ANSWER_LIMIT_S))
    finally:
        await client.close()


async def is_ready(connection: Connection) -> bool:
    """Whether a job may begin. A server that refuses the question counts as ready: then the job finds out."""
    try:
        return await ask_ready(connection)
    except Exception as error:
        return str(getattr(error, "status", str)()) not in _AWAY
