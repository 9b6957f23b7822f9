"""The gateway holds requests to what the server behind published, while that is there and while it is not."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from wan_t2v_client import Connection
from wan_t2v_client.errors import Unavailable
from wan_t2v_gateway import server_limits

from tests.fakes.published_limits import published
from tests.fakes.scripted_server import MADE, serving
from tests.unit.gateway.stepwise import serving_stepwise
from tests.waiting import wait_until
from wan_t2v.shapes import VideoShape

Start = Callable[..., Any]
NOWHERE = "127.0.0.1:1"
SMALLER = VideoShape(33, 128, 128)


def limits_of(gateway: Any) -> dict[str, Any]:
    limits: dict[str, Any] = gateway.http.get("/v1/models").json()["data"][0]["limits"]
    return limits


def ask_for(gateway: Any, **fields: Any) -> Any:
    return gateway.http.post("/v1/videos", json={"prompt": "x", **fields})


def test_models_tell_what_the_server_published(start: Start) -> None:
    with serving(MADE) as server:
        limits = limits_of(start(server_url=server.url, workers=0))
    assert (limits["largest_size"], limits["most_frames"], limits["longest_seconds"]) == ("256x256", 81, 81 / 16)
    assert (limits["version"], limits["sizes"], limits["clips"]) == (1, [], [])
    assert limits["fields"]["fps"] == published()["fields"]["fps"]
    assert "latents" not in limits["fields"] and limits["work"] == published()["work"]


def test_the_default_of_a_field_is_what_the_gateway_sends(start: Start) -> None:
    """It asks for previews, which the server sends to those alone who ask."""
    with serving(MADE) as server:
        gateway = start(server_url=server.url)
        gateway.until(gateway.post(), "completed")
        sent = server.requests[0]
        shown = limits_of(gateway)["fields"]["preview_every"]
        schemas = gateway.http.get("/openapi.json").json()["components"]["schemas"]
    names = [tensor.name for tensor in sent.inputs]
    value = int.from_bytes(sent.raw_input_contents[names.index("preview_every")], "little")
    assert published()["fields"]["preview_every"]["default"] == 0
    assert shown == published()["fields"]["preview_every"] | {"default": value} and value == 2
    assert schemas["VideoRequest"]["properties"]["preview_every"]["default"] == 2


def test_nothing_is_taken_before_a_server_ever_answered(start: Start) -> None:
    gateway = start(server_url=NOWHERE, workers=0)
    answer = ask_for(gateway)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "what the server behind accepts is not known yet" in answer.text
    assert limits_of(gateway) is None and gateway.http.get("/openapi.json").status_code == 200


def test_a_gateway_says_why_it_is_not_ready(start: Start) -> None:
    with serving(MADE) as server:
        server.ready = False
        unready = start(server_url=server.url, workers=0).http.get("/readyz")
    away = start(server_url=NOWHERE, workers=0).http.get("/readyz")
    assert [unready.status_code, away.status_code] == [503, 503]
    assert "the server behind the gateway is not ready" in unready.text
    assert "the server behind the gateway does not answer: " in away.text


def test_an_older_server_is_named(start: Start) -> None:
    with serving_stepwise() as server:
        server.limits = None
        gateway = start(server_url=server.url, workers=0)
        for answer in (ask_for(gateway), gateway.http.get("/readyz")):
            assert answer.status_code == 503 and "the server publishes no limits: it is older" in answer.text


def test_the_last_known_limits_hold_while_the_server_is_away_and_after_a_restart(start: Start) -> None:
    with serving(MADE) as server:
        server.limits = published(largest=SMALLER)
        before = start(server_url=server.url, workers=0)
        assert ask_for(before).status_code == 200
    after = start(server_url=NOWHERE, workers=0)
    assert limits_of(after) == limits_of(before)
    for gateway in (before, after):
        assert ask_for(gateway, size="128x128").status_code == 200
        refused = ask_for(gateway, size="144x128")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "width")


def test_a_front_that_cannot_ask_a_server_takes_jobs_by_what_another_gateway_reads(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by what that one reads later."""
    monkeypatch.setattr(server_limits, "AGAIN_S", 0.01)
    monkeypatch.setattr(server_limits, "AWAY_S", 0.01)
    front = start(server_url=NOWHERE, workers=0)
    assert limits_of(front) is None
    with serving(MADE) as server:
        start(server_url=server.url, workers=0)
        wait_until(lambda: limits_of(front) is not None)
        assert front.ask_for({"prompt": "x", "size": "256x256"}).status_code == 200
        server.limits = published(largest=SMALLER)
        wait_until(lambda: limits_of(front)["largest_size"] == "128x128")
        assert front.ask_for({"prompt": "x", "size": "256x256"}).status_code == 400


def test_a_server_that_returns_with_other_limits_is_heard(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_limits, "AGAIN_S", 0.01)
    monkeypatch.setattr(server_limits, "AWAY_S", 0.01)
    with serving(MADE) as server:
        gateway = start(server_url=server.url, workers=0)
        assert limits_of(gateway)["largest_size"] == "256x256"
    with serving(MADE, port=int(server.url.rpartition(":")[2])) as server:
        server.limits = published(largest=SMALLER)
        while limits_of(gateway)["largest_size"] != "128x128":
            pass
        assert ask_for(gateway, size="256x256").status_code == 400
        schema = gateway.http.get("/openapi.json").json()["components"]["schemas"]["VideoRequest"]["properties"]
        height = {"minimum": 16, "maximum": 128, "multipleOf": 16, "default": 64}
        assert schema["height"] | height == schema["height"]
        assert schema["step_profile"]["enum"] == ["exact", "fast"] and schema["flow_shift"]["minimum"] == 0.01


def test_reading_ends_when_it_is_cancelled_although_the_call_fails_at_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a gateway that is told to stop while its server is away might wait for ever for this task."""

    async def stop() -> asyncio.Task[None]:
        asked = asyncio.Event()

        async def limits(client: Any, *, deadline_s: float) -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # as gRPC does
                raise Unavailable("the server is away") from None

        monkeypatch.setattr(server_limits.AsyncTextToVideo, "limits", limits)
        database: Any = None
        task = asyncio.create_task(server_limits.LimitsReader(Connection(NOWHERE), database).keep_reading())
        await asked.wait()
        task.cancel()
        await asyncio.wait({task})
        return task

    assert asyncio.run(stop()).cancelled()


def test_reading_goes_on_after_a_call_that_grpc_cancelled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def limits(client: Any, *, deadline_s: float) -> None:
        nonlocal asked
        asked += 1
        raise asyncio.CancelledError

    async def recall(reader: server_limits.LimitsReader) -> None:
        pass

    async def read_until_asked_again() -> bool:
        database: Any = None
        task = asyncio.create_task(server_limits.LimitsReader(Connection(NOWHERE), database).keep_reading())
        while asked < 2 and not task.done():
            await asyncio.sleep(0)
        goes_on = not task.done()
        task.cancel()
        await asyncio.wait({task})
        return goes_on

    monkeypatch.setattr(server_limits, "AWAY_S", 0.0)
    monkeypatch.setattr(server_limits.LimitsReader, "recall", recall)
    monkeypatch.setattr(server_limits.AsyncTextToVideo, "limits", limits)
    assert asyncio.run(read_until_asked_again())
