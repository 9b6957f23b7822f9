"""A time limit on calls to the database."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)
CALL_LIMIT_S = 1.6  # so that every HTTP request is answered within two seconds

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PAUSE_S = 1.0


class DatabaseUnavailable(Exception):
    """The database did not answer in time, or refused."""


def limited(call: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]:
    """Wrap a call so that it raises DatabaseUnavailable after CALL_LIMIT_S, without waiting for its end.

    Cancelling a statement sends a request to the server, which takes seconds if the server hangs. So the wrapper does
    not wait for that. Whether the call had an effect is then unknown, so callers must be able to repeat it safely.
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


async def until_heard(call: Callable[[], Awaitable[_R]], what: str) -> _R:
    """Repeat a call until the database has answered; `what` names in the log what waits for it."""
    while True:
        try:
            return await call()
        except DatabaseUnavailable as error:
            _log.warning("%s waits: %s", what, error)
            await asyncio.sleep(_PAUSE_S)


def _forget(task: "asyncio.Future[_R]") -> None:
    """Retrieve an abandoned call's exception: else asyncio logs that it was never retrieved."""
    if not task.cancelled():
        task.exception()
