"""The limits of the server behind: asked for again and again, and kept where the next gateway finds them.

A gateway starts while its server is away, and takes jobs by what was last known. Before anything was ever known it
takes none: it would have to guess what can be served.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from wan_t2v_client import AsyncTextToVideo, ClientError, Connection, Limits

from wan_t2v_gateway.api.errors import ApiError
from wan_t2v_gateway.database import switches
from wan_t2v_gateway.database.limit import DatabaseUnavailable
from wan_t2v_gateway.database.pool import Database

ANSWER_LIMIT_S = 1.0  # a caller waits no longer for it
AGAIN_S = 10.0  # a server that came back with other limits is heard after so long
AWAY_S = 1.0
_log = logging.getLogger(__name__)


class LimitsReader:
    """What is known of the server's limits."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection, self._database = connection, database
        self._asking = asyncio.Lock()
        self._reason = "it was not asked yet"
        self._kept: Mapping[str, Any] | None = None
        self.known: Limits | None = None

    async def recall(self) -> None:
        """Take what this or another gateway of the same database read last."""
        with contextlib.suppress(ClientError, DatabaseUnavailable):
            if document := await switches.server_limits(self._database):
                self.known, self._kept = Limits.parse(document), document

    async def find(self) -> Limits | None:
        """The limits that were read last; the server is asked if there are none yet."""
        if self.known is None:
            async with self._asking:  # who asks already may bring the answer
                if self.known is None:
                    await self._ask()
        return self.known

    async def read(self) -> Limits:
        """The same. Raises ApiError 503 while nothing is known."""
        limits = await self.find()
        if limits is None:
            message = f"what the server behind accepts is not known yet: {self._reason[:300]}"
            raise ApiError(503, message, headers={"retry-after": "2"})
        return limits

    async def keep_reading(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            async with self._asking:
                answered = await self._ask()
            await asyncio.sleep(AGAIN_S if answered else AWAY_S)

    async def ready(self) -> None:
        """Raise ApiError if no server answers."""
        client = self._connection.open_asyncio()
        try:
            if await client.is_model_ready("text_to_video_stream", client_timeout=1.5):
                return
            raise ApiError(503, "the server behind the gateway is not ready")
        except ApiError:
            raise
        except Exception as error:
            raise ApiError(503, f"the server behind the gateway does not answer: {str(error)[:200]}") from None
        finally:
            await client.close()

    async def _ask(self) -> bool:
        """Ask once, while nobody else does. Returns whether the server answered."""
        try:
            async with AsyncTextToVideo(self._connection) as client:
                limits = await client.limits(deadline_s=ANSWER_LIMIT_S)
        except Exception as error:  # whatever is wrong with the server, the gateway goes on
            self._reason = str(error)
            _log.info("the server's limits cannot be read: %s", error)
            return False
        if self._kept != limits.document:
            with contextlib.suppress(DatabaseUnavailable):
                await switches.keep_server_limits(self._database, limits.document)
                self._kept = limits.document
        self.known = limits
        return True
