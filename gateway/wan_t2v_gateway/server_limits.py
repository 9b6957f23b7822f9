"""The server's limits: read periodically, and stored in the database for other gateways.

A gateway whose server is away, or never answers it, accepts jobs by the limits that any gateway of the database read
last. Before any limits are known it accepts none, since it would have to guess what the server accepts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from wan_t2v_client import AsyncTextToVideo, ClientError, Connection, Limits
from wan_t2v_client.transport.async_channel import check_cancelled

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.database import switches
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.generation.readiness import ask_ready

ANSWER_LIMIT_S = 1.0  # longest wait of a caller for the limits
AGAIN_S = 10.0  # between readings; changed limits are noticed after this time
AWAY_S = 1.0
_log = logging.getLogger(__name__)


class LimitsReader:
    """Reader of the server's limits; `known` has the last ones read."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection, self._database = connection, database
        self._asking = asyncio.Lock()
        self._reason = "it was not asked yet"
        self._kept: Mapping[str, Any] | None = None
        self.known: Limits | None = None

    async def recall(self) -> None:
        """Load the limits that this or another gateway of the same database read last."""
        with contextlib.suppress(ClientError, DatabaseUnavailable):
            if document := await switches.server_limits(self._database):
                self.known, self._kept = Limits.parse(document), document

    async def find(self) -> Limits | None:
        """Return the limits read last; if there are none, read them from the server. None if it does not answer."""
        if self.known is None:
            async with self._asking:  # another caller may be reading them already
                if self.known is None:
                    await self._ask()
        return self.known

    async def read(self) -> Limits:
        """Return the limits like `find`. Raises ApiError 503 while none are known."""
        limits = await self.find()
        if limits is None:
            message = f"what the server behind accepts is not known yet: {self._reason[:300]}"
            raise ApiError(503, message, headers={"retry-after": "2"})
        return limits

    async def keep_reading(self) -> None:
        """Read the limits periodically, until cancelled: from the server, or from the database if it is away."""
        while True:
            async with self._asking:
                answered = await self._ask()
            if not answered:  # not in `_ask`: a caller who waits for that has no time for the database too
                await self.recall()
            await asyncio.sleep(AGAIN_S if answered else AWAY_S)

    async def ready(self) -> None:
        """Raise ApiError 503 unless the server's streaming endpoint is ready."""
        try:
            ready = await ask_ready(self._connection)
        except Exception as error:
            raise ApiError(503, f"the server behind the gateway does not answer: {str(error)[:200]}") from None
        if not ready:
            raise ApiError(503, "the server behind the gateway is not ready")

    async def _ask(self) -> bool:
        """Read the limits once; the caller holds the lock. Returns whether the server answered."""
        try:
            async with AsyncTextToVideo(self._connection) as client:
                limits = await client.limits(deadline_s=ANSWER_LIMIT_S)
        except (Exception, asyncio.CancelledError) as error:  # no failure of the server or of gRPC may end the gateway
            check_cancelled()
            self._reason = str(error) or type(error).__name__
            _log.info("the server's limits cannot be read: %s", error)
            return False
        if self._kept != limits.document:
            with contextlib.suppress(DatabaseUnavailable):
                await switches.keep_server_limits(self._database, limits.document)
                self._kept = limits.document
        self.known = limits
        return True
