"""A remix takes another video's settings, and what its caller gives goes before them."""

from collections.abc import Callable
from typing import Any

import pytest


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
