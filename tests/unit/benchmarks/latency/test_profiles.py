"""The figures of step profiles against diffusers, and what another precision is called beside them."""

from pathlib import Path
from typing import cast

from wan_t2v_client import TextToVideo

from benchmarks.latency.profiles import _in_precision, profile_figures


def test_a_ratio_is_the_median_of_the_rounds_and_not_that_of_the_medians() -> None:
    """A machine that is slower in one round is slower for both."""
    seconds = {"diffusers": [2.0, 8.0, 4.0], "exact": [1.0, 2.0, 2.0], "fast": [0.5, 4.0, 1.0]}
    assert profile_figures(seconds, {"exact": 80, "fast": 34}) == {
        "diffusers_s": 4.0,
        "profiles": {
            "exact": {"seconds": 2.0, "ratio": 0.5, "passes": 80},
            "fast": {"seconds": 1.0, "ratio": 0.25, "passes": 34},
        },
    }


def test_another_export_has_the_name_of_its_precision_alone_and_with_a_profile(exported: Path) -> None:
    client = cast(TextToVideo, object())
    ways = _in_precision(client, exported)
    assert {name: dict(way.fields) for name, way in ways.items()} == {
        "fp32": {},
        "fp32, balanced": {"step_profile": "balanced"},
    }
    assert all(way.client is client for way in ways.values())
