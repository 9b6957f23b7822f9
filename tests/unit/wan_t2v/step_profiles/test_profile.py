"""Profiles as a deployment writes them."""

from typing import Any

import pytest

from wan_t2v.contract import EXPERTS
from wan_t2v.step_profiles.profile import EXACT, LEAST_STEPS, StepProfile
from wan_t2v.step_profiles.step_plan import plan_steps


def test_a_profile_has_what_it_names_and_the_usual_guards() -> None:
    profile = StepProfile.parse({"step_cache": 0.05, "guidance_skip": 0.25})
    assert (profile.step_cache, profile.guidance_skip, profile.warm_up) == (0.05, 0.25, EXACT.warm_up)
    assert profile.reuses_steps and not profile.is_exact and EXACT.is_exact


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
        ({"step_cache": 0.1, "warm_up": 0, "after_switch": 13}, f"leave nothing of {LEAST_STEPS} steps to reuse"),
        ({"static_reuse": 1, "warm_up": 0.0, "after_switch": 11, "last_steps": 4}, "leave nothing of 16 steps"),
        ({"step_cache": 0.1, "warm_up": 0, "after_switch": 7}, "leave nothing of 16 steps"),
        ({}, "no pass is left out, accepted: a step_cache, static_reuse or guidance_skip above 0"),
        ({"step_cache": -0.0}, "no pass is left out"),
        ({"longest_reuse": 4}, "no pass is left out"),
    ],
)
def test_a_wrong_value_is_named(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepProfile.parse(raw)


@pytest.mark.parametrize("warm_up", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("after_switch", [2, 5, 6])
@pytest.mark.parametrize("last_steps", [0, 3])
def test_an_accepted_profile_can_reuse_a_step_wherever_the_switch_lies(
    warm_up: float, after_switch: int, last_steps: int
) -> None:
    raw = {"step_cache": 0.1, "warm_up": warm_up, "after_switch": after_switch, "last_steps": last_steps}
    try:
        profile = StepProfile.parse(raw)
    except ValueError:
        profile = StepProfile(**raw)  # type: ignore[arg-type]  # refused: in the worst place of the switch nothing is left
        assert min(reusable(profile, LEAST_STEPS)) == 0
        return
    for steps in (LEAST_STEPS, 17, 23, 40):
        assert 0 < profile.reusable_steps(steps) == min(reusable(profile, steps))


def test_of_a_resumed_generation_the_steps_before_its_start_reuse_nothing_any_more() -> None:
    profile = StepProfile(step_cache=0.1)
    assert [profile.reusable_steps(40, done=done) for done in (0, 8, 20, 36, 38, 50)] == [28, 28, 16, 0, 0, 0]


def reusable(profile: StepProfile, steps: int) -> list[int]:
    """Planned steps that may reuse a result, for each place of the switch."""
    experts = (EXPERTS[:1] * high + EXPERTS[1:] * (steps - high) for high in range(1, steps))
    return [sum(step.may_reuse for step in plan_steps(profile, names, guided=True)) for names in experts]
