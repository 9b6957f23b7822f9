"""Clips by number: the same number gives the same clip and caption on every machine, in any order."""

from dataclasses import dataclass

import numpy as np

from training.world.captions import caption
from training.world.render import Frames, render
from training.world.scenes import Scene, Split, draw_scene
from wan_t2v.shapes import VideoShape

_SPLIT_STREAM = {"train": 0, "held_out": 1}


@dataclass(frozen=True)
class Clip:
    """A clip with what it shows; `frames` (T, H, W, 3) uint8."""

    scene: Scene
    caption: str
    frames: Frames


def numbered_scene(seed: int, index: int, *, split: Split) -> tuple[Scene, np.random.Generator]:
    """The `index`-th scene of a split, and the generator for what else is drawn about it."""
    random = np.random.default_rng((seed, _SPLIT_STREAM[split], index))
    return draw_scene(random, split=split), random


def numbered_clip(seed: int, index: int, *, video: VideoShape, split: Split = "train") -> Clip:
    """The `index`-th clip of a split."""
    scene, random = numbered_scene(seed, index, split=split)
    return Clip(scene, caption(scene, random), render(scene, video))


def numbered_captions(seed: int, index: int, *, count: int) -> list[str]:
    """`count` wordings for the `index`-th training scene, the clip's own first."""
    scene, random = numbered_scene(seed, index, split="train")
    return [caption(scene, random) for _ in range(count)]
