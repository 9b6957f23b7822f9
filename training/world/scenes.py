"""Scenes of wan-mini: one coloured shape that moves over a plain background, and the scenes held out from training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]

COLOURS = {  # sRGB; far enough apart to be told apart in a blurred video
    "red": (220, 30, 40),
    "orange": (250, 135, 20),
    "yellow": (245, 225, 50),
    "green": (35, 160, 60),
    "cyan": (40, 215, 225),
    "blue": (40, 80, 235),
    "purple": (130, 40, 185),
    "pink": (250, 130, 195),
}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "up_left",
    "up_right",
    "down_left",
    "down_right",
    "circling",
    "growing",
    "shrinking",
    "rotating",
)
DIAGONALS = ("up_left", "up_right", "down_left", "down_right")
BACKGROUNDS = {
    "black": (12, 12, 14),
    "white": (238, 238, 238),
    "grey": (120, 120, 122),
    "sandy": (212, 190, 150),
    "dark blue": (18, 24, 66),
}
SPEEDS = ("slow", "normal", "fast")
HELD_OUT_MODULUS = 7  # one combination in seven; training still has every pair of colour, shape and motion


@dataclass(frozen=True)
class Scene:
    """Complete description of a clip.

    Attributes:
        x, y: middle of the path; the picture's shorter side is from -1 to 1, y down.
        size: scale of the shape, in the same unit; its outer radius is `OUTER_RADIUS` times this.
        phase: angle at which a circling shape is in the middle of the clip, in radians.
    """

    colour: str
    shape: str
    motion: str
    background: str
    speed: str
    x: float
    y: float
    size: float
    phase: float


def is_possible(shape: str, motion: str) -> bool:
    """Whether the combination is used. A rotating circle is not, since it looks like a still one."""
    return not (shape == "circle" and motion == "rotating")


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether this combination is held out from training, for tests."""
    place = tuple(COLOURS).index(colour) + 2 * SHAPES.index(shape) + 3 * MOTIONS.index(motion)
    return place % HELD_OUT_MODULUS == 0


def combinations(split: Split) -> Iterator[tuple[str, str, str]]:
    """Yield every (colour, shape, motion) of a split, in a fixed order."""
    for colour in COLOURS:
        for shape in SHAPES:
            for motion in MOTIONS:
                if is_possible(shape, motion) and is_held_out(colour, shape, motion) == (split == "held_out"):
                    yield colour, shape, motion


def draw_scene(random: np.random.Generator, *, split: Split = "train") -> Scene:
    """Draw a scene of a split. All diagonal motions together are as frequent as any other motion."""
    while True:
        colour, shape, motion = _draw(random, tuple(COLOURS)), _draw(random, SHAPES), _draw_motion(random)
        if is_possible(shape, motion) and is_held_out(colour, shape, motion) == (split == "held_out"):
            return place_scene(colour, shape, motion=motion, random=random)


def place_scene(
    colour: str,
    shape: str,
    *,
    motion: str,
    random: np.random.Generator,
    background: str | None = None,
    speed: str | None = None,
) -> Scene:
    """Draw the properties that are not given. No path leaves the picture by more than the tip of a corner."""
    return Scene(
        colour=colour,
        shape=shape,
        motion=motion,
        background=background or _draw(random, tuple(BACKGROUNDS)),
        speed=speed or _draw(random, SPEEDS),
        x=random.uniform(-0.06, 0.06),
        y=random.uniform(-0.06, 0.06),
        size=random.uniform(0.38, 0.46),  # 24 to 29 of 64 pixels, which is three latents, so that a corner has its own
        phase=random.uniform(0.0, 2.0 * np.pi),
    )


def _draw(random: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(random.integers(len(names)))]


def _draw_motion(random: np.random.Generator) -> str:
    straight = tuple(motion for motion in MOTIONS if motion not in DIAGONALS)
    motion = _draw(random, (*straight, "diagonal"))
    return _draw(random, DIAGONALS) if motion == "diagonal" else motion
