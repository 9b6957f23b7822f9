"""The server's limits through the client, and what it says where there are none."""

import asyncio
import math
from typing import Any

import pytest
from wan_t2v_client import (
    AsyncTextToVideo,
    Connection,
    DeadlineExceeded,
    RequestRefused,
    ServerFault,
    TextToVideo,
    Unavailable,
)
from wan_t2v_client.limits import FieldLimits, Limits

from tests.fakes.published_limits import published
from tests.fakes.scripted_server import MADE, serving
from wan_t2v.shapes import VideoShape

LONG_AFTER_NFKC = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"  # three bytes, and 18 characters


def ask(url: str, **options: Any) -> Limits:
    with TextToVideo(Connection(url)) as client:
        return client.limits(**options)


async def ask_asyncio(url: str) -> Limits:
    async with AsyncTextToVideo(Connection(url)) as client:
        return await client.limits()


def test_both_clients_read_the_published_limits() -> None:
    with serving(MADE) as server:
        server.limits = published(VideoShape(81, 480, 832))
        limits = ask(server.url)
        assert asyncio.run(ask_asyncio(server.url)) == limits
        assert server.requests == []
    assert limits.sizes == ((480, 832, 81),)
    assert limits.fields["fps"] == FieldLimits("integer", minimum=1, maximum=120, unit="frames per second", default=16)
    assert limits.defaults["num_inference_steps"] == 40 and "seed" not in limits.defaults
    assert (limits.least_steps, limits.exact_profiles) == (16, ("exact",))
    assert limits.document == published(VideoShape(81, 480, 832))


def test_an_older_server_a_newer_one_and_none_are_told_apart() -> None:
    with serving(MADE) as server:
        server.limits = None
        with pytest.raises(RequestRefused, match="publishes no limits: it is older than this client"):
            ask(server.url)
        with pytest.raises(RequestRefused, match="publishes no limits"):
            asyncio.run(ask_asyncio(server.url))
        server.limits = {**published(), "version": 2}
        with pytest.raises(ServerFault, match="in version 2, this client reads 1"):
            ask(server.url)
        server.limits = {"version": 1}
        with pytest.raises(ServerFault, match="cannot be read"):
            ask(server.url)
    with pytest.raises(Unavailable):
        ask(server.url)
    with pytest.raises((DeadlineExceeded, Unavailable)):
        ask(server.url, deadline_s=0.001)


@pytest.mark.parametrize(
    ("accepted", "right", "wrong"),
    [
        (FieldLimits("integer", minimum=1, maximum=81, step=4), (1, 5, 81), (0, 2, 85)),
        (FieldLimits("integer", minimum=16, maximum=256, step=16), (16, 256), (8, 24, 272)),
        (FieldLimits("number", above=0.0, maximum=100.0), (0.1, 100.0, 100.000001), (0.0, 1e-50, 100.5, -1.0)),
        (FieldLimits("number", minimum=0.0), (0.0, 1e30), (-0.1, 1e39, 10**400, math.inf, math.nan)),
        (FieldLimits("number", minimum=0.01, maximum=0.7), (0.01, 0.00999999978, 0.7), (0.00999999, 0.7000001)),
        (FieldLimits("text", choices=("unipc", "euler")), ("euler",), ("", "heun")),
        (FieldLimits("text", maximum_bytes=4), ("", "四"), ("四四", LONG_AFTER_NFKC, "\ud800")),
        (FieldLimits("text", required=True, maximum_bytes=4), ("x", " x "), ("", " \n", "\u3000")),
    ],
)
def test_a_field_accepts_what_was_published(
    accepted: FieldLimits, right: tuple[Any, ...], wrong: tuple[Any, ...]
) -> None:
    assert [value for value in (*right, *wrong) if accepted.accepts(value)] == list(right)


def test_the_work_of_settings_is_counted_as_the_server_counts_it() -> None:
    work = Limits.parse(published()).work
    settings = {"height": 256, "width": 256, "num_frames": 81, "num_inference_steps": 47, "guidance_scale": 4.0}
    assert work.token_passes(settings) == 94 * 5376
    assert work.token_passes({**settings, "guidance_scale": 1.0}) == 47 * 5376


def test_what_a_newer_server_says_besides_is_no_matter() -> None:
    document = published()
    document["fields"]["motion"] = {"type": "number", "because": "new"}
    assert Limits.parse(document).fields["motion"] == FieldLimits("number")
