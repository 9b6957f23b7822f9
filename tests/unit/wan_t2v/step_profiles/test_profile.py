"""Profiles as a deployment writes them."""

from typing import Any

import pytest

from wan_t2v.step_profiles.profile import EXACT, LEAST_STEPS, StepProfile


def test_a_profile_has_what_it_names_and_the_usual_guards() -> None:
    profile = StepProfile.parse({"step_cache": 0.05, "guidance_skip": 0.25})
    assert (profile.step_cache, profile.guidance_skip, profile.warm_up) == (0.05, 0.25, EXACT.warm_up)
    assert profile.reuses_steps and not profile.is_exact
    assert StepProfile.parse({}) == EXACT and EXACT.is_exact


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], r"\[\], accepted: an object with any of step_cache, "),
        ({"cache": 1}, "cache is unknown, accepted: step_cache, "),
        ({"step_cache": "0.1"}, "step_cache is '0.1', accepted: a number from 0 to 1"),
        ({"step_cache": True}, "step_cache is True"),
        ({"step_cache": float("nan")}, "step_cache is nan"),
        ({"guidance_skip": 1.5}, "guidance_skip is 1.5, accepted: a number from 0 to 1"),
        ({"static_reuse": 0.5}, "static_reuse is 0.5, accepted: 0 or more"),
        ({"static_reuse": -1}, "static_reuse is -1, accepted: 0 or more"),
        ({"after_switch": 1}, "after_switch is 1, accepted: 2 or more"),
        ({"longest_reuse": 0}, "longest_reuse is 0, accepted: 1 or more"),
        ({"step_cache": 0.1, "static_reuse": 1}, "step_cache and static_reuse are both set"),
        ({"warm_up": 0.8}, f"leave nothing of {LEAST_STEPS} steps to reuse"),
    ],
)
def test_a_wrong_value_is_named(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepProfile.parse(raw)


def test_what_leaves_more_out_is_expected_to_take_less() -> None:
    shares = [
        StepProfile.parse(raw).expected_share(guided=True)
        for raw in ({}, {"guidance_skip": 0.25}, {"step_cache": 0.05}, {"step_cache": 0.05, "guidance_skip": 0.25})
    ]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and len(set(shares)) == 4


def test_without_a_negative_pass_no_share_of_it_is_saved() -> None:
    assert StepProfile(guidance_skip=1.0).expected_share(guided=False) == 1.0
