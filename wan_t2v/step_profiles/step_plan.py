"""The plan of a generation's steps, made before the first one runs. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass

from wan_t2v.contract import EXPERTS
from wan_t2v.step_profiles.profile import StepProfile, part_of


@dataclass(frozen=True)
class PlannedStep:
    """One planned step.

    Attributes:
        expert: name of the expert that computes it.
        is_experts_first: whether another expert, or none, runs the step before.
        may_reuse: whether it may reuse the last computed step's result.
        guided: whether a negative pass is computed if the step is.
    """

    expert: str
    is_experts_first: bool
    may_reuse: bool
    guided: bool

    @property
    def passes(self) -> int:
        """Number of the expert's passes, if the step is computed."""
        return 2 if self.guided else 1


def plan_steps(profile: StepProfile, experts: Sequence[str], *, guided: bool) -> tuple[PlannedStep, ...]:
    """Plan the steps of a generation; `experts` names the expert of each step."""
    skipped_from = len(experts) - part_of(profile.guidance_skip, experts.count(EXPERTS[1]))
    steps: list[PlannedStep] = []
    since_switch = 0
    for index, expert in enumerate(experts):
        switched = not index or expert != experts[index - 1]
        since_switch = 0 if switched else since_switch + 1
        computed = (
            index < profile.warm_up_steps(len(experts))
            or since_switch < profile.after_switch
            or index >= len(experts) - profile.last_steps
        )
        may_reuse = profile.reuses_steps and not computed
        steps.append(PlannedStep(expert, switched, may_reuse, guided and index < skipped_from))
    return tuple(steps)
