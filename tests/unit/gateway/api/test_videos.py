"""Remixes, lists from the place of a removed video on, and a video's length."""

from collections.abc import Callable
from typing import Any

import pytest
from wan_t2v_gateway.database import videos

Start = Callable[..., Any]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"size": "48x32"}, {"width": 48, "height": 32}),
        ({"size": None, "height": 48}, {"width": 64, "height": 48}),
        ({"seconds": 0.3}, {"num_frames": 5}),
        ({"step_profile": "exact", "num_inference_steps": 20}, {"step_profile": "exact"}),
    ],
)
def test_a_field_of_a_remix_replaces_what_the_video_before_had(
    given: dict[str, Any], expected: dict[str, Any], start: Callable[..., Any]
) -> None:
    first = {"width": 64, "height": 32, "num_frames": 9, "num_inference_steps": 16, "step_cache": 0.1}
    http = start(workers=0).http
    made = http.post("/v1/videos", json={"prompt": "a red ball", **first})
    assert made.status_code == 200, made.text
    remixed = http.post(f"/v1/videos/{made.json()['id']}/remix", json={"prompt": "a blue ball", **given})
    assert remixed.status_code == 200, remixed.text
    fields = remixed.json()["settings"]
    assert {name: fields.get(name) for name in expected} == expected
    assert not ("step_profile" in given and "step_cache" in fields)


def ids(gateway: Any, after: str, **query: str) -> list[str]:
    answer = gateway.http.get("/v1/videos", params={"after": after, **query})
    assert answer.status_code == 200, answer.text
    return [video["id"] for video in answer.json()["data"]]


def test_the_last_videos_that_were_removed_keep_their_places_in_the_list(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "_PLACES_KEPT", 2)
    gateway = start(workers=0)
    first, second, third, fourth = (gateway.post() for _ in range(4))
    gateway.http.delete(f"/v1/videos/{third}")
    assert ids(gateway, third) == [second, first] and ids(gateway, third, order="asc") == [fourth]
    gateway.http.delete(f"/v1/videos/{first}")
    assert ids(gateway, first) == []
    gateway.http.delete(f"/v1/videos/{second}")
    assert ids(gateway, second) == ids(gateway, first) == []
    assert gateway.http.get("/v1/videos", params={"after": third}).status_code == 400


def test_the_place_of_anothers_removed_video_is_refused(start: Start, owner: Callable[..., dict[str, str]]) -> None:
    gateway, anna, ben = start(workers=0), owner("anna"), owner("ben")
    mine, his = gateway.post(anna), gateway.post(ben)
    gateway.http.delete(f"/v1/videos/{his}", headers=ben)
    answer = gateway.http.get("/v1/videos", params={"after": his}, headers=anna)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after") and mine


@pytest.mark.parametrize(
    ("fields", "frames", "seconds"),
    [
        ({"num_frames": 5, "fps": 8}, 5, "0.625"),
        ({"seconds": "1", "fps": 8}, 9, "1.125"),
        ({"seconds": 1}, 17, "1.0625"),
    ],
)
def test_seconds_are_those_in_which_the_video_plays(
    fields: dict[str, Any], frames: int, seconds: str, start: Start
) -> None:
    gateway = start(workers=0)
    video = gateway.video(gateway.post(**fields))
    assert (video["settings"]["num_frames"], video["seconds"]) == (frames, seconds)
    again = gateway.http.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "x", "seconds": seconds}).json()
    assert (again["settings"]["num_frames"], again["seconds"]) == (frames, seconds)
