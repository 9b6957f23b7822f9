"""The denoising loop: noise to clean latents."""

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from wan_t2v.experts import HIGH_NOISE_EXPERT, Experts
from wan_t2v.guidance import compute_velocities
from wan_t2v.schedule import Schedule
from wan_t2v.step_profiles.profile import EXACT
from wan_t2v.step_profiles.step_reuse import StepReuse


@dataclass(frozen=True)
class Step:
    """A finished step: the `index`-th (from 1) of `count`, at `timestep`, by `expert`.

    `latents` (1, C, F, H, W) are the solver's result; `clean_estimate`, of the same shape, predicts the clean latents.
    `passes` counts the expert's passes computed for this step, 0 if it reused an earlier step's result.
    `passes_left` estimates the passes of the steps after it.
    """

    index: int
    count: int
    timestep: float
    expert: str
    clean_estimate: Tensor
    latents: Tensor
    passes: int
    passes_left: float

    @property
    def reused(self) -> bool:
        """Whether the step reused an earlier step's result."""
        return self.passes == 0


class NonFiniteVelocity(ArithmeticError):
    """An expert's velocity has NaN or infinite values, so the video would be noise. The message names the step."""


class NonFiniteLatents(ArithmeticError):
    """The last step's result has NaN or infinite values, though its velocity had none."""


@torch.inference_mode()  # otherwise autograd records every operation of the solver
def denoise(
    latents: Tensor,
    schedule: Schedule,
    *,
    experts: Experts,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor | None,
    guidance_scale: float,
    guidance_scale_2: float,
    executor: Executor,
    after_step: Callable[[Step], None],
    steps_done: int = 0,
    reuse: StepReuse | None = None,
) -> Tensor:
    """Run the denoising loop and return the clean latents (1, C, F, H, W) float32, normalised.

    `guidance_scale` holds while the high-noise expert runs, `guidance_scale_2` while the low-noise expert runs.
    `after_step` is called after each step and may raise `Cancelled` to stop. To resume a generation, pass the latents
    after `steps_done` steps, and a schedule and a `reuse` restored to that step. Without `reuse` every pass is
    computed. Raises NonFiniteVelocity or NonFiniteLatents.
    """
    reuse = reuse or _exact_reuse(schedule, experts, guided=negative_prompt_embeds is not None, steps_done=steps_done)
    for index, timestep in enumerate(schedule.timesteps[steps_done:], start=steps_done + 1):
        step, name = reuse.plan[index - 1], experts.name_at(timestep)
        velocities = reuse.take(step, latents)
        if velocities is None:
            velocities = compute_velocities(
                experts[name],
                latents,
                timestep,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds if step.guided else None,
                executor=executor,
            )
            reuse.keep(step, latents, velocities)
        velocity = velocities.guided(guidance_scale if name == HIGH_NOISE_EXPERT else guidance_scale_2)
        _check_velocity(velocity, f"step {index} of {len(schedule.timesteps)}, timestep {timestep}: {name}")
        latents = schedule.step(velocity, timestep, latents)
        after_step(_make_step(index, timestep, name, schedule=schedule, latents=latents, reuse=reuse))
    _check_latents(latents)
    return latents


def experts_of_steps(schedule: Schedule, experts: Experts) -> list[str]:
    """Return the name of the expert that runs each step."""
    return [experts.name_at(timestep) for timestep in schedule.timesteps]


def _exact_reuse(schedule: Schedule, experts: Experts, *, guided: bool, steps_done: int) -> StepReuse:
    reuse = StepReuse(EXACT, experts_of_steps(schedule, experts), guided=guided)
    reuse.passes = [step.passes for step in reuse.plan[:steps_done]]
    return reuse


def _make_step(
    index: int, timestep: float, expert: str, *, schedule: Schedule, latents: Tensor, reuse: StepReuse
) -> Step:
    return Step(
        index,
        len(schedule.timesteps),
        timestep,
        expert,
        clean_estimate=schedule.clean_estimate,
        latents=latents,
        passes=reuse.passes[-1],
        passes_left=reuse.passes_left,
    )


def _check_velocity(velocity: Tensor, where: str) -> None:
    """Raise NonFiniteVelocity for NaN or infinity. Once per step only: on a GPU the check waits for the passes."""
    if wrong := _count_non_finite(velocity):
        raise NonFiniteVelocity(
            f"{where} gave a velocity in which {wrong} of {velocity.numel()} values are no finite numbers. "
            "Overflow in its precision does that: compare it with the checkpoint by `make parity`."
        )


def _check_latents(latents: Tensor) -> None:
    """Raise NonFiniteLatents for NaN or infinity. Those of every other step show in the next step's velocity."""
    if wrong := _count_non_finite(latents):
        raise NonFiniteLatents(
            f"the last step gave latents in which {wrong} of {latents.numel()} values are no finite numbers. "
            "Velocities that nearly overflow do that: compare the experts with the checkpoint by `make parity`."
        )


def _count_non_finite(values: Tensor) -> int:
    # NaN and infinity stay in a sum, which is one pass over the values. Large finite values can overflow it.
    if math.isfinite(float(values.sum())):
        return 0
    return values.numel() - int(torch.isfinite(values).sum())
