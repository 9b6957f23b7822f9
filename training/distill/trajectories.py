"""Teacher's trajectories: latents of guided generations at each waypoint, computed once and cached in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from export.atomic import write_atomically
from training.distill.waypoints import TeacherSchedule
from training.learn.sampling import Modules, SamplingSettings, generate_latents
from training.learn.text_embeddings import text_embeddings
from training.world.clips import numbered_captions
from wan_t2v.denoise import Step
from wan_t2v.latents import starting_noise
from wan_t2v.shapes import LatentShape

PART = 64
TOGETHER = 16
FIRST_NOISE = 1_000_000  # held-out prompts have small seeds, so training never uses their noise


@dataclass(frozen=True)
class Trajectories:
    """Latents (N, 5, C, F, H, W) at the waypoints, noise first, and the text embeddings (N, L, D)."""

    states: Tensor
    texts: Tensor

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Teacher:
    """The teacher's modules, the latents' shape, its number of steps, and the seed of the prompts."""

    modules: Modules
    shape: LatentShape
    steps: int
    seed: int = 0

    def captions(self, indices: Sequence[int]) -> list[str]:
        """Return the training caption of each trajectory. None has a held-out combination."""
        return [numbered_captions(self.seed, index, count=1)[0] for index in indices]

    @torch.no_grad()
    def follow(self, indices: Sequence[int]) -> Trajectories:
        """Generate these trajectories with serving's default guidance and negative prompt."""
        captions, schedule = self.captions(indices), TeacherSchedule(self.steps)
        seeds = [FIRST_NOISE + index for index in indices]
        visited = [torch.cat([starting_noise(self.shape, seed) for seed in seeds])]

        def keep(step: Step) -> None:
            if step.index in schedule.marks:
                visited.append(step.latents.cpu())

        generate_latents(
            self.modules,
            captions,
            seeds=seeds,
            shape=self.shape,
            settings=SamplingSettings(),
            schedule=schedule,
            after_step=keep,
        )
        texts = text_embeddings(self.modules.text_encoder, self.modules.tokenizer, captions=captions)
        return Trajectories(torch.stack(visited, dim=1), texts.cpu())


def trajectories_of(teacher: Teacher, folder: Path, *, count: int) -> Trajectories:
    """Return the first `count` trajectories, from `folder` or generated.

    `folder` must belong to this teacher's weights alone, since parts of the same size, steps and seed are reused.
    """
    parts = []
    for first in tqdm(range(0, count, PART), desc="teacher", unit="part"):
        path = folder / f"{'x'.join(map(str, teacher.shape))}-{teacher.steps}-{teacher.seed}-{first:06d}.pt"
        if not path.exists():
            followed = [teacher.follow(range(at, at + TOGETHER)) for at in range(first, first + PART, TOGETHER)]
            with write_atomically(path) as partial:
                torch.save(_joined([(one.states, one.texts) for one in followed]), partial)
        parts.append(torch.load(path, weights_only=True))
    states, texts = _joined(parts)
    return Trajectories(states[:count], texts[:count])


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    states, texts = zip(*parts, strict=True)
    return torch.cat(states), torch.cat(texts)
