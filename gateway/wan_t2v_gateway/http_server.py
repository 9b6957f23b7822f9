"""The HTTP server, and how it stops: event streams end at once, files get some time."""

import socket

import uvicorn
from fastapi import FastAPI

from wan_t2v_gateway.connections import BoundedConnection

_STOP_LIMIT_S = 20  # for the rest of files; the chart gives a front more than this


class HttpServer(uvicorn.Server):
    """uvicorn with the gateway's options."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                loop="asyncio",  # BoundedConnection uses an attribute of asyncio's transports
                http=BoundedConnection,
                log_level="warning",
                timeout_graceful_shutdown=_STOP_LIMIT_S,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop. Event streams and jobs end first, since they would last as long as their videos."""
        self._app.state.gateway.stopping.set()
        await super().shutdown(sockets)
