"""One question, asked through either API: what holds for the blocking client holds for the asyncio one."""

import asyncio
from contextlib import aclosing, closing
from typing import Any

from wan_t2v_client import AsyncTextToVideo, Connection, Generation, Progress, RetryPolicy, TextToVideo

APIS = ("blocking", "asyncio")


def told(api: str, url: str, *, retry: RetryPolicy | None = None, **options: Any) -> list[Progress | Generation]:
    """Everything that one call of the streaming door tells. Raises what it raises."""
    chosen = {} if retry is None else {"retry": retry}
    if api == "blocking":
        with TextToVideo(Connection(url), **chosen) as server, closing(server.stream("a ball", **options)) as news:
            return list(news)

    async def read() -> list[Progress | Generation]:
        server = AsyncTextToVideo(Connection(url), **chosen)
        async with server, aclosing(server.stream("a ball", **options)) as news:
            return [one async for one in news]

    return asyncio.run(read())


def unary(api: str, url: str, retry: RetryPolicy) -> Generation:
    """One call of the unary door."""
    if api == "blocking":
        with TextToVideo(Connection(url), retry=retry) as server:
            return server.generate_unary("a ball")

    async def ask() -> Generation:
        async with AsyncTextToVideo(Connection(url), retry=retry) as server:
            return await server.generate_unary("a ball")

    return asyncio.run(ask())


def steps(news: list[Progress | Generation]) -> list[int]:
    return [one.step for one in news if isinstance(one, Progress)]
