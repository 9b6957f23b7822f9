"""The denoising loop: noise to clean latents."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from wan_t2v.experts import HIGH_NOISE_EXPERT, Experts
from wan_t2v.guidance import guided_velocity
from wan_t2v.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """A finished step: the `index`-th (from 1) of `count`, at `timestep`, by `expert`.

    `latents` are those after it; `clean_estimate` is the clean clip that the solver is heading for, shaped as they are.
    """

    index: int
    count: int
    timestep: int
    expert: str
    clean_estimate: Tensor
    latents: Tensor


class NonFiniteVelocity(ArithmeticError):
    """An expert's velocity has values that are no numbers; a video of it would be noise. The message says where."""


@torch.inference_mode()  # without it every operation of the solver also keeps books for gradients
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
) -> Tensor:
    """Walk down the schedule and return the clean latents (1, C, F, H, W) float32, normalised.

    `guidance_scale` holds while the high-noise expert runs, `guidance_scale_2` while the low-noise expert runs.
    `after_step` is told of each step and may raise `Cancelled` to stop. A generation that was interrupted goes on with
    the latents after `steps_done` steps and a schedule restored to that moment. Raises NonFiniteVelocity.
    """
    for index, timestep in enumerate(schedule.timesteps[steps_done:], start=steps_done + 1):
        name = experts.name_at(timestep)
        velocity = guided_velocity(
            experts[name],
            latents,
            timestep,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            guidance_scale=guidance_scale if name == HIGH_NOISE_EXPERT else guidance_scale_2,
            executor=executor,
        )
        _check_finite(velocity, f"step {index} of {len(schedule.timesteps)}, timestep {timestep}: {name}")
        latents = schedule.step(velocity, timestep, latents)
        after_step(Step(index, len(schedule.timesteps), timestep, name, schedule.clean_estimate, latents))
    return latents


def _check_finite(velocity: Tensor, where: str) -> None:
    """Once a step, since on a GPU it waits until the passes are done."""
    if not bool(torch.isfinite(velocity).all()):
        wrong = velocity.numel() - int(torch.isfinite(velocity).sum())
        raise NonFiniteVelocity(
            f"{where} gave a velocity in which {wrong} of {velocity.numel()} values are no finite numbers. "
            "Overflow in its precision does that: compare it with the checkpoint by `make parity`."
        )
