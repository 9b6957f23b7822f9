"""Which steps may reuse, and which run without a negative pass."""

import numpy as np

from wan_t2v.contract import EXPERTS
from wan_t2v.step_profiles.profile import EXACT, StepProfile
from wan_t2v.step_profiles.step_plan import plan_steps

HIGH, LOW = EXPERTS
OF_WAN = (HIGH,) * 26 + (LOW,) * 14  # 40 steps at shift 12


def test_the_first_steps_of_all_and_of_each_expert_and_the_last_are_computed() -> None:
    plan = plan_steps(StepProfile(step_cache=0.1), OF_WAN, guided=True)
    assert [index for index, step in enumerate(plan) if step.may_reuse] == [*range(8, 26), *range(28, 38)]
    assert [index for index, step in enumerate(plan) if step.is_experts_first] == [0, 26]


def test_without_a_cache_or_a_static_schedule_no_step_reuses() -> None:
    for profile in (EXACT, StepProfile(guidance_skip=1.0)):
        assert not any(step.may_reuse for step in plan_steps(profile, OF_WAN, guided=True))
    assert any(step.may_reuse for step in plan_steps(StepProfile(static_reuse=1), OF_WAN, guided=True))


def test_guidance_is_skipped_at_the_end_and_never_by_the_high_noise_expert() -> None:
    def guided(share: float) -> list[int]:
        return [
            index
            for index, step in enumerate(plan_steps(StepProfile(guidance_skip=share), OF_WAN, guided=True))
            if step.guided
        ]

    assert guided(0.0) == list(range(40))
    assert guided(0.25) == list(range(36)), "a part of a step is a step"
    assert guided(1.0) == list(range(26))


def test_passes_are_two_with_guidance_and_one_without() -> None:
    plan = plan_steps(StepProfile(guidance_skip=0.5), OF_WAN, guided=True)
    assert sum(step.passes for step in plan) == 80 - 7
    assert sum(step.passes for step in plan_steps(EXACT, OF_WAN, guided=False)) == 40


def test_a_clip_of_one_expert_alone_is_planned_too() -> None:
    plan = plan_steps(StepProfile(step_cache=0.1), (LOW,) * 20, guided=True)
    assert [index for index, step in enumerate(plan) if step.may_reuse] == list(range(4, 18))


def test_a_share_in_single_precision_is_the_share_that_was_meant() -> None:
    """A request's 0.2 arrives as 0.20000000298: of 20 steps that is four, not five."""
    experts = (HIGH,) * 20 + (LOW,) * 20
    for share, skipped in ((0.2, 4), (0.1, 2), (0.3, 6), (0.01, 1)):
        arrived = float(np.float32(share))
        plan = plan_steps(StepProfile(guidance_skip=arrived), experts, guided=True)
        assert [step.guided for step in plan].count(False) == skipped
