"""Look-ups of host names that callers choose: a name server may take long, or not answer."""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import defaultdict
from concurrent.futures import Future

_LOOKUPS = 4  # per owner at a time


class NameLookups:
    """Looks up host names, each in a thread of its own, and few at a time per owner.

    asyncio's own look-ups share a few threads with the other blocking work of the process. A look-up cannot be
    cancelled, so an owner's place is taken until its thread ends, whether or not the caller still waits.
    """

    def __init__(self) -> None:
        self._places: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_LOOKUPS))

    async def addresses(self, host: str, port: int, *, owner: str) -> list[str]:
        """Return the addresses of a host. Raises OSError."""
        with contextlib.suppress(ValueError):  # a name
            ipaddress.ip_address(host)
            return [host]
        loop, places, answer = asyncio.get_running_loop(), self._places[owner], Future[list[str]]()
        await places.acquire()

        def run() -> None:
            _look_up(host, port, answer)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(places.release)

        try:
            threading.Thread(target=run, name="name look-up", daemon=True).start()
        except RuntimeError as error:  # the process has too many threads; `run` will not release the place
            places.release()
            raise OSError(f"no thread for a name look-up: {error}") from error
        return await asyncio.wrap_future(answer)


def _look_up(host: str, port: int, answer: Future[list[str]]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        answer.set_exception(error)
    else:
        answer.set_result([str(entry[4][0]) for entry in found])
