"""Numbered clips: a seed and a number give the same clip and caption on every machine, in any order."""

from dataclasses import dataclass

import numpy as np

from training.world.captions import caption
from training.world.render import Frames, render
from training.world.scenes import Scene, Split, draw_scene
from wan_t2v.shapes import VideoShape

_SPLIT_STREAM = {"train": 0, "held_out": 1}


@dataclass(frozen=True)
class Clip:
    """A clip with its scene and caption. `frames` are (T, H, W, 3) uint8."""

    scene: Scene
    caption: str
    frames: Frames


def numbered_scene(seed: int, index: int, *, split: Split) -> tuple[Scene, np.random.Generator]:
    """Return scene number `index` of a split, and the random generator for its captions."""
    random = np.random.default_rng((seed, _SPLIT_STREAM[split], index))
    return draw_scene(random, split=split), random


def numbered_clip(seed: int, index: int, *, video: VideoShape, split: Split = "train") -> Clip:
    """Return clip number `index` of a split."""
    scene, random = numbered_scene(seed, index, split=split)
    return Clip(scene, caption(scene, random), render(scene, video))


def numbered_captions(seed: int, index: int, *, count: int) -> list[str]:
    """Return `count` captions of training scene number `index`, the clip's own caption first."""
    scene, random = numbered_scene(seed, index, split="train")
    return [caption(scene, random) for _ in range(count)]
