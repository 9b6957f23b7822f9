"""Whether the server takes videos, asked before a job begins."""

from wan_t2v_client import Connection

_MODEL = "text_to_video_stream"
_ANSWER_LIMIT_S = 1.5
_AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


async def is_ready(connection: Connection) -> bool:
    """Whether the server answers that its streaming endpoint is ready.

    A server that refuses the question counts as ready: then the job finds out.
    """
    client = connection.open_asyncio()
    try:
        return bool(await client.is_model_ready(_MODEL, client_timeout=_ANSWER_LIMIT_S))
    except Exception as error:
        return str(getattr(error, "status", str)()) not in _AWAY
    finally:
        await client.close()
