"""A limit on the time of whatever asks the database."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

CALL_LIMIT_S = 1.6  # callers are answered within two seconds

_P = ParamSpec("_P")
_R = TypeVar("_R")


class DatabaseUnavailable(Exception):
    """The database did not answer in time, or refused."""


def limited(call: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]:
    """Raise DatabaseUnavailable after CALL_LIMIT_S, without waiting for the call to end.

    A cancelled statement asks the server to cancel it, for seconds if the server hangs; nobody waits for that. Whether
    the call still did its work is then unknown, so every caller must be one who may ask twice.
    """

    @functools.wraps(call)
    async def bounded(*arguments: _P.args, **named: _P.kwargs) -> _R:
        task = asyncio.ensure_future(call(*arguments, **named))
        try:
            done, _ = await asyncio.wait({task}, timeout=CALL_LIMIT_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done:
            return task.result()
        task.add_done_callback(_forget)
        task.cancel()
        raise DatabaseUnavailable(f"the database did not answer within {CALL_LIMIT_S} s")

    return bounded


def _forget(task: "asyncio.Future[_R]") -> None:
    """Take note of the result, or asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()
