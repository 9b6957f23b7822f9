"""Training of the LoRAs: one Euler step without guidance must reach the next waypoint of the teacher's trajectory.

In the first part of the training each step starts from the teacher's state. Later it starts from the student's own
state and must return to the trajectory. Without that, small errors of early steps would lead to states that later steps
never saw in training.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.contact_sheet import write_contact_sheet
from training.distill.lora import add_lora
from training.distill.trajectories import Trajectories
from training.distill.waypoints import EXPERT_OF_STEP, SIGMAS, STEPS, STUDENT_SHIFT, timestep_of
from training.learn.sampling import Modules, SamplingSettings, generate_clips
from training.world.prompts import fixed_prompts
from wan_t2v.experts import HIGH_NOISE_EXPERT, LOW_NOISE_EXPERT
from wan_t2v.shapes import LatentShape

BATCH = 4
KEPT_BACK = 32  # validation trajectories, not trained on
TEACHERS_SHARE = 0.3  # share of the training in which steps start from the teacher's states
SHOWN_PROMPTS = 8
FOUR_STEPS = SamplingSettings(
    steps=STEPS, guidance_scale=1.0, guidance_scale_2=1.0, flow_shift=STUDENT_SHIFT, solver="euler"
)


class DistillStage:
    """Stage that trains both LoRAs. Losses are the velocities' mean squared errors per student step, and their sum."""

    def __init__(self, modules: Modules, trajectories: Trajectories, *, seed: int, device: torch.device) -> None:
        self.modules, self.seed, self.device = modules, seed, device
        self.trajectories = trajectories
        self.experts = {
            HIGH_NOISE_EXPERT: modules.high_noise_expert.to(device),
            LOW_NOISE_EXPERT: modules.low_noise_expert.to(device),
        }
        torch.manual_seed(seed)
        self.module = nn.ModuleDict({name: add_lora(expert) for name, expert in self.experts.items()})

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]:
        """Compute the losses of a training step. Its number seeds the choice of trajectories."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randint(len(self.trajectories) - KEPT_BACK, (BATCH,), generator=random)
        errors = self._errors(self._batch(rows), own_states=share_done >= TEACHERS_SHARE)
        return {"loss": torch.stack(errors).sum()} | {f"step_{i}": e.detach() for i, e in enumerate(errors, start=1)}

    def show(self, path: Path) -> dict[str, float]:
        """Write one strip per held-out prompt, and return the errors on validation trajectories."""
        prompts = fixed_prompts()[:SHOWN_PROMPTS]
        clips = generate_clips(
            self.modules,
            [prompt.text for prompt in prompts],
            seeds=[prompt.seed for prompt in prompts],
            shape=LatentShape(*self.trajectories.states.shape[2:]),
            settings=FOUR_STEPS,
        )
        write_contact_sheet(path, clips, columns=2)
        return self.kept_back_errors()

    @torch.no_grad()
    def kept_back_errors(self) -> dict[str, float]:
        """Compute the mean squared distance between the student's and the teacher's latents at each waypoint."""
        batch = self._batch(torch.arange(len(self.trajectories) - KEPT_BACK, len(self.trajectories)))
        latents, errors = batch.states[:, 0], {}
        for step in range(STEPS):
            latents = follow(latents, self._velocity(step, latents, batch.texts), step)
            errors[f"apart_{step + 1}"] = (latents - batch.states[:, step + 1]).square().mean().item()
        return errors

    def _batch(self, rows: Tensor) -> Trajectories:
        states, texts = self.trajectories.states[rows], self.trajectories.texts[rows]
        return Trajectories(states.to(self.device), texts.to(self.device))

    def _errors(self, batch: Trajectories, *, own_states: bool) -> list[Tensor]:
        latents, errors = batch.states[:, 0], []
        for step in range(STEPS):
            start = latents if own_states else batch.states[:, step]
            velocity = self._velocity(step, start, batch.texts)
            errors.append((velocity - target_velocity(start, batch.states[:, step + 1], step)).square().mean())
            latents = follow(start, velocity.detach(), step)
        return errors

    def _velocity(self, step: int, latents: Tensor, texts: Tensor) -> Tensor:
        timesteps = torch.full((len(latents),), timestep_of(step), device=latents.device)
        velocity: Tensor = self.experts[EXPERT_OF_STEP[step]](latents, timesteps, texts, return_dict=False)[0]
        return velocity.float()


def target_velocity(start: Tensor, end: Tensor, step: int) -> Tensor:
    """Return the velocity with which the student's Euler step `step` (from 0) goes from `start` to `end`."""
    return (start - end) / (SIGMAS[step] - SIGMAS[step + 1])


def follow(latents: Tensor, velocity: Tensor, step: int) -> Tensor:
    """Apply the student's Euler step `step` (from 0) to `latents`."""
    return latents + (SIGMAS[step + 1] - SIGMAS[step]) * velocity
