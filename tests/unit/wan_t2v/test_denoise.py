from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.fakes.pb_utils import FakeExpert
from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import NonFiniteLatents, NonFiniteVelocity, Step, denoise, experts_of_steps
from wan_t2v.experts import Experts
from wan_t2v.facts import ModelFacts
from wan_t2v.guidance import compute_velocities
from wan_t2v.solvers.noise_levels import official_sigmas
from wan_t2v.solvers.unipc import UniPcSchedule
from wan_t2v.step_profiles.profile import EXACT, StepProfile
from wan_t2v.step_profiles.step_reuse import StepReuse

LATENTS = torch.zeros(1, 16, 1, 2, 2)
PROMPT, NEGATIVE = torch.ones(1, 4, 8), torch.full((1, 4, 8), 0.25)


@pytest.fixture(scope="module")
def facts(repository: Path) -> ModelFacts:
    return ModelFacts.read(repository / "denoiser/1")


def run(
    facts: ModelFacts,
    high: FakeExpert,
    low: FakeExpert,
    *,
    negative: Tensor | None = NEGATIVE,
    count: int = 8,
    profile: StepProfile = EXACT,
) -> list[Step]:
    steps: list[Step] = []
    with ThreadPoolExecutor(1) as executor:
        schedule = UniPcSchedule(facts.scheduler, official_sigmas(count), flow_shift=12.0)
        experts = Experts(high, low, facts.boundary_timestep)
        denoise(
            LATENTS,
            schedule,
            experts=experts,
            prompt_embeds=PROMPT,
            negative_prompt_embeds=negative,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            executor=executor,
            after_step=steps.append,
            reuse=StepReuse(profile, experts_of_steps(schedule, experts), guided=negative is not None),
        )
    return steps


def test_the_high_noise_expert_runs_first_and_the_low_noise_expert_below_the_boundary(facts: ModelFacts) -> None:
    high, low = FakeExpert(1.0), FakeExpert(1.0)
    steps = run(facts, high, low)
    assert [step.expert for step in steps] == ["high_noise_expert"] * 6 + ["low_noise_expert"] * 2
    assert {timestep >= 875 for timestep, _ in high.calls} == {True}
    assert {timestep < 875 for timestep, _ in low.calls} == {True}
    assert [step.index for step in steps] == list(range(1, 9))


def test_at_the_boundary_itself_the_high_noise_expert_runs() -> None:
    experts = Experts(FakeExpert(0), FakeExpert(0), 875.0)
    assert [experts.name_at(timestep) for timestep in (876, 875, 874)] == [
        "high_noise_expert",
        "high_noise_expert",
        "low_noise_expert",
    ]


def test_each_step_makes_a_conditional_and_a_negative_pass(facts: ModelFacts) -> None:
    high, low = FakeExpert(1.0), FakeExpert(1.0)
    run(facts, high, low)
    assert sorted(embedding for _, embedding in high.calls) == [0.25] * 6 + [1.0] * 6


def test_without_negative_embeddings_one_pass_runs(facts: ModelFacts) -> None:
    high, low = FakeExpert(1.0), FakeExpert(1.0)
    run(facts, high, low, negative=None)
    assert (len(high.calls), len(low.calls)) == (6, 2)


def test_guidance_extrapolates_from_the_negative_pass() -> None:
    """Conditional velocity 2, negative 0.5: 0.5 + 4 * (2 - 0.5) = 6.5."""
    with ThreadPoolExecutor(1) as executor:
        velocities = compute_velocities(
            FakeExpert(2.0), LATENTS, 900, prompt_embeds=PROMPT, negative_prompt_embeds=NEGATIVE, executor=executor
        )
    assert torch.equal(velocities.guided(4.0), torch.full_like(LATENTS, 6.5))


def test_a_step_that_raises_stops_the_loop(facts: ModelFacts) -> None:
    high = FakeExpert(1.0)

    def cancel(step: Step) -> None:
        raise Cancelled("enough")

    with ThreadPoolExecutor(1) as executor, pytest.raises(Cancelled):
        denoise(
            LATENTS, UniPcSchedule(facts.scheduler, official_sigmas(8), flow_shift=12.0),
            experts=Experts(high, FakeExpert(1.0), 875.0), prompt_embeds=PROMPT, negative_prompt_embeds=None,
            guidance_scale=4.0, guidance_scale_2=3.0, executor=executor, after_step=cancel,
        )  # fmt: skip
    assert len(high.calls) == 1


@pytest.mark.parametrize("failing", [1.0, 0.25])
def test_a_failing_pass_is_the_steps_failure_and_outlives_nothing(facts: ModelFacts, failing: float) -> None:
    class Broken(FakeExpert):
        def __call__(self, latents: Tensor, timestep: int, text_embeddings: Tensor) -> Tensor:
            velocity = super().__call__(latents, timestep, text_embeddings)
            if float(text_embeddings.mean()) == failing:
                raise RuntimeError("no memory")
            return velocity

    broken = Broken(1.0)
    with pytest.raises(RuntimeError, match="no memory"):
        run(facts, broken, FakeExpert(1.0))
    assert len(broken.calls) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_velocity_that_is_no_number_ends_the_generation_in_its_step(facts: ModelFacts, value: float) -> None:
    """The solver, the decoder and the encoder would make a video of it."""

    class Overflowing(FakeExpert):
        def __call__(self, latents: Tensor, timestep: int, text_embeddings: Tensor) -> Tensor:
            velocity = super().__call__(latents, timestep, text_embeddings)
            if len(self.calls) == 3:
                velocity[0, 0, 0, 0, 0] = value
            return velocity

    high, low = Overflowing(1.0), FakeExpert(1.0)
    with pytest.raises(NonFiniteVelocity, match=r"step 3 of 8, timestep 972: high_noise_expert .* 1 of 64 values"):
        run(facts, high, low, negative=None)
    assert len(high.calls) == 3, "no pass ran after it"


def test_large_velocities_whose_sum_overflows_are_numbers_all_the_same(facts: ModelFacts) -> None:
    greatest = float(torch.finfo(torch.float32).max)
    high, low = FakeExpert(greatest / 4), FakeExpert(1.0)
    assert len(run(facts, high, low, negative=None, count=1)) == 1


def test_last_latents_that_are_no_numbers_end_the_generation_though_every_velocity_is_one(facts: ModelFacts) -> None:
    """At flow_shift=1e-44, which was accepted, all of them were NaN after the last of 12 steps."""
    greatest = torch.finfo(torch.float32).max

    class NearlyOverflowing(FakeExpert):
        def __call__(self, latents: Tensor, timestep: int, text_embeddings: Tensor) -> Tensor:
            velocity = super().__call__(latents, timestep, text_embeddings)
            velocity[0, 0, 0, 0, 0] = -greatest if len(self.calls) == 1 else greatest
            return velocity

    low = NearlyOverflowing(1.0)
    with pytest.raises(
        NonFiniteLatents, match="the last step gave latents in which 1 of 64 values are no finite numbers"
    ):
        run(facts, FakeExpert(1.0), low, negative=None)
    assert len(low.calls) == 2


def test_a_profile_leaves_passes_out_and_each_step_says_so(facts: ModelFacts) -> None:
    high, low = FakeExpert(1.0), FakeExpert(1.0)
    steps = run(facts, high, low, count=40, profile=StepProfile(static_reuse=1, guidance_skip=0.5))
    for expert, name in ((high, "high_noise_expert"), (low, "low_noise_expert")):
        assert len(expert.calls) == sum(step.passes for step in steps if step.expert == name)
    assert [step.index for step in steps if step.reused] == [*range(9, 27, 2), *range(29, 39, 2)]
    assert {step.passes for step in steps[33:]} == {0, 1} and {step.passes for step in steps[:33]} == {0, 2}
    assert steps[-1].passes_left == 0


def test_nothing_left_out_is_what_is_computed_without_a_profile(facts: ModelFacts) -> None:
    def last(reuse: StepReuse | None) -> Tensor:
        schedule = UniPcSchedule(facts.scheduler, official_sigmas(8), flow_shift=12.0)
        with ThreadPoolExecutor(1) as executor:
            return denoise(
                LATENTS, schedule, experts=Experts(FakeExpert(1.0), FakeExpert(0.3), 875.0), prompt_embeds=PROMPT,
                negative_prompt_embeds=NEGATIVE, guidance_scale=4.0, guidance_scale_2=3.0, executor=executor,
                after_step=lambda step: None, reuse=reuse,
            )  # fmt: skip

    names = ["high_noise_expert"] * 6 + ["low_noise_expert"] * 2
    assert torch.equal(last(None), last(StepReuse(EXACT, names, guided=True)))
