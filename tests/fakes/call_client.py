"""One question, asked through either API: what holds for the blocking client holds for the asyncio one."""

import asyncio
from contextlib import aclosing, closing
from typing import Any

from wan_t2v_client import AsyncTextToVideo, Connection, Generation, Progress, RetryPolicy, TextToVideo

APIS = ("blocking", "asyncio")


def collect_stream(
    api: str, url: str, *, retry: RetryPolicy | None = None, **options: Any
) -> list[Progress | Generation]:
    """Everything that one call of the streaming endpoint tells. Raises what it raises."""
    retry_option = {} if retry is None else {"retry": retry}
    if api == "blocking":
        with (
            TextToVideo(Connection(url), **retry_option) as server,
            closing(server.stream("a ball", **options)) as messages,
        ):
            return list(messages)

    async def read() -> list[Progress | Generation]:
        server = AsyncTextToVideo(Connection(url), **retry_option)
        async with server, aclosing(server.stream("a ball", **options)) as messages:
            return [message async for message in messages]

    return asyncio.run(read())


def unary(api: str, url: str, retry: RetryPolicy | None = None, **options: Any) -> Generation:
    """One call of the unary endpoint."""
    retry_option = {} if retry is None else {"retry": retry}
    if api == "blocking":
        with TextToVideo(Connection(url), **retry_option) as server:
            return server.generate_unary("a ball", **options)

    async def ask() -> Generation:
        async with AsyncTextToVideo(Connection(url), **retry_option) as server:
            return await server.generate_unary("a ball", **options)

    return asyncio.run(ask())


def steps(messages: list[Progress | Generation]) -> list[int]:
    return [message.step for message in messages if isinstance(message, Progress)]
