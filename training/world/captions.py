"""Captions: many wordings of a scene, mostly in words that are single tokens of the tokenizer."""

import numpy as np

from training.world.scenes import Scene

SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
}
SPEED_WORDS = {"slow": ("slowly",), "normal": ("",), "fast": ("quickly",)}
MOTION_WORDS = {
    "left": ("moves left", "moves to the left", "slides to the left", "drifts left"),
    "right": ("moves right", "moves to the right", "slides to the right", "drifts right"),
    "up": ("moves up", "moves upwards", "drifts upwards", "slides up"),
    "down": ("moves down", "moves downwards", "falls downwards", "slides down"),
    "up_left": ("moves diagonally up and to the left", "slides diagonally up and left"),
    "up_right": ("moves diagonally up and to the right", "slides diagonally up and right"),
    "down_left": ("moves diagonally down and to the left", "slides diagonally down and left"),
    "down_right": ("moves diagonally down and to the right", "slides diagonally down and right"),
    "circling": ("circles around the centre", "moves around the centre", "flies around the centre"),
    "growing": ("grows", "grows larger", "grows in place"),
    "shrinking": ("shrinks", "shrinks away", "shrinks in place"),
    "rotating": ("rotates", "spins in place", "rotates in place"),
}
FRAMES = (
    "a {colour} {shape} {motion} on a {background} background",
    "a {colour} {shape} {motion} on a {background} background",
    "the {colour} {shape} {motion} over a {background} background",
    "a video of a {colour} {shape} that {motion} before a {background} wall",
    "{background} background: a {colour} {shape} {motion}",
    "one {colour} {shape} {motion}, the background is {background}",
)
OPEN_FRAMES = ("a {colour} {shape} {motion}", "the {colour} {shape} {motion}")  # without the background
OPEN_SHARE = 0.1


def caption(scene: Scene, random: np.random.Generator) -> str:
    """Describe a scene in one of many wordings."""
    frames = OPEN_FRAMES if random.random() < OPEN_SHARE else FRAMES
    return _fill(
        _one_of(frames, random),
        scene,
        shape=_one_of(SHAPE_WORDS[scene.shape], random),
        motion=_motion(scene, random),
    )


def plain_caption(scene: Scene) -> str:
    """Describe a scene in the plain wording of the fixed prompts."""
    motion = " ".join(filter(None, (MOTION_WORDS[scene.motion][0], SPEED_WORDS[scene.speed][0])))
    return _fill(FRAMES[0], scene, shape=scene.shape, motion=motion)


def _fill(frame: str, scene: Scene, *, shape: str, motion: str) -> str:
    text = frame.format(colour=scene.colour, shape=shape, motion=motion, background=scene.background)
    return text.replace("a orange", "an orange")


def _motion(scene: Scene, random: np.random.Generator) -> str:
    """Draw the words of the motion, with the adverb of speed before or after it."""
    words = [_one_of(MOTION_WORDS[scene.motion], random), _one_of(SPEED_WORDS[scene.speed], random)]
    return " ".join(filter(None, words if random.random() < 0.7 else reversed(words)))


def _one_of(choices: tuple[str, ...], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]
