"""What counts as a server that takes videos."""

import asyncio
from typing import Any

import grpc
import pytest
from wan_t2v_client import Connection
from wan_t2v_gateway.generation.readiness import ask_ready, is_ready

from tests.fakes.scripted_server import MADE, ScriptedServer, serving


@pytest.mark.parametrize("ready", [True, False])
def test_a_server_is_as_ready_as_it_says(ready: bool) -> None:
    with serving(MADE) as server:
        server.ready = ready
        assert asyncio.run(is_ready(Connection(server.url))) is ready
        assert asyncio.run(ask_ready(Connection(server.url))) is ready


def test_a_server_that_is_absent_is_not_ready() -> None:
    with serving(MADE) as server:
        pass
    assert not asyncio.run(is_ready(Connection(server.url)))


@pytest.mark.parametrize(("code", "ready"), [("PERMISSION_DENIED", True), ("UNAVAILABLE", False)])
def test_a_server_that_does_not_want_to_be_asked_may_take_videos(
    monkeypatch: pytest.MonkeyPatch, code: str, ready: bool
) -> None:
    def refuse(self: ScriptedServer, request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode[code], "not this method")

    monkeypatch.setattr(ScriptedServer, "ModelReady", refuse)
    with serving(MADE) as server:
        assert asyncio.run(is_ready(Connection(server.url))) is ready
        with pytest.raises(Exception, match="not this method"):
            asyncio.run(ask_ready(Connection(server.url)))
