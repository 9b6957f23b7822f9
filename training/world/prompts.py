"""Fixed list of held-out prompts, on which every score is measured."""

from dataclasses import dataclass

import numpy as np

from training.world.captions import plain_caption
from training.world.scenes import Scene, combinations, place_scene

PROMPTS = 54
_ORDER_SEED = 20


@dataclass(frozen=True)
class Prompt:
    """A prompt, the scene that its clip must show, and the seed of its starting noise."""

    text: str
    scene: Scene
    seed: int


def fixed_prompts(count: int = PROMPTS) -> list[Prompt]:
    """Return prompts for the first `count` held-out combinations in a shuffled order, with drawn background and speed.

    The list is the same every time.
    """
    random = np.random.default_rng(_ORDER_SEED)
    held_out = list(combinations("held_out"))
    order = [held_out[i] for i in random.permutation(len(held_out))][:count]
    return [_prompt(colour, shape, motion=motion, seed=seed) for seed, (colour, shape, motion) in enumerate(order)]


def _prompt(colour: str, shape: str, *, motion: str, seed: int) -> Prompt:
    scene = place_scene(colour, shape, motion=motion, random=np.random.default_rng((_ORDER_SEED, seed)))
    return Prompt(plain_caption(scene), scene, seed)
