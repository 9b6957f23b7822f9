"""Attributes of a clip from its pixels alone: colour, motion and shape."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.judge.foreground import Foreground, foreground_of
from training.world.motion import DIRECTIONS, Motion, Track
from training.world.render import CORNERS, Frames, coverage
from training.world.scenes import COLOURS, SHAPES
from wan_t2v.shapes import VideoShape

MAX_COLOUR_DISTANCE = 110.0  # in sRGB, where the largest distance is 441; a farther colour is unknown
MIN_TRAVEL = 0.2  # in half picture sides; the slowest motion travels 0.4
MIN_BEND = 0.055  # spread across a path's main direction, in half picture sides; half a circle has 0.11
MIN_GROWTH = 1.25  # largest over smallest size; the slowest growth is 1.6
MIN_TURN = 0.6  # radians; the slowest turn is 1.57
MIN_OVERLAP = 0.6  # intersection over union with the best known shape
TEMPLATE_ANGLES = 12
JUDGED_FRAMES = 5  # frames of a clip that are compared with known shapes


@dataclass(frozen=True)
class Verdict:
    """Attributes of a clip. None for an attribute that is not a known one."""

    colour: str | None
    motion: str | None
    shape: str | None


def judge(frames: Frames) -> Verdict:
    """Judge a decoded clip (T, H, W, 3) uint8."""
    foreground = foreground_of(frames)
    if foreground is None:
        return Verdict(None, None, None)
    return Verdict(judge_colour(foreground), judge_motion(foreground), judge_shape(foreground))


def judge_colour(foreground: Foreground) -> str | None:
    """Return the nearest known colour, None if all are too far."""
    distances = {name: float(np.linalg.norm(foreground.colour - known)) for name, known in COLOURS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= MAX_COLOUR_DISTANCE else None


def judge_motion(foreground: Foreground) -> str | None:
    """Return the motion, None if there is none.

    A circular path bends and a straight one does not. A shape that stays in place may grow, shrink or rotate.
    """
    travel = _slope(foreground.x), _slope(foreground.y)
    growth = np.exp(_slope(np.log(foreground.size)))
    if _bend(foreground) > MIN_BEND:
        return "circling"
    if np.hypot(*travel) > MIN_TRAVEL:
        return _direction(*travel)
    if max(growth, 1.0 / growth) > MIN_GROWTH:
        return "growing" if growth > 1.0 else "shrinking"
    return "rotating" if abs(_turn(foreground)) > MIN_TURN else None


def judge_shape(foreground: Foreground) -> str | None:
    """Return the known shape that overlaps the foreground best at any angle, None if none overlaps enough."""
    frames = np.linspace(0, len(foreground.size) - 1, JUDGED_FRAMES).round().astype(int)
    overlap = {shape: np.mean([_overlap(shape, foreground, int(at)) for at in frames]) for shape in SHAPES}
    best = max(overlap, key=overlap.__getitem__)
    return best if overlap[best] >= MIN_OVERLAP else None


def _slope(track: Track) -> float:
    """Return the change over the whole clip along the least-squares line."""
    return float(np.polyfit(np.linspace(0.0, 1.0, len(track)), track, 1)[0])


def _bend(foreground: Foreground) -> float:
    """Return the standard deviation of the path across its main direction."""
    return float(np.sqrt(max(0.0, np.linalg.eigvalsh(np.cov(foreground.x, foreground.y))[0])))


def _direction(across: float, down: float) -> str:
    """Return the nearest of the eight directions."""
    way = np.array([across, down]) / np.hypot(across, down)
    return max(DIRECTIONS, key=lambda name: float(way @ DIRECTIONS[name]) / float(np.hypot(*DIRECTIONS[name])))


def _turn(foreground: Foreground) -> float:
    """Return the clockwise rotation over the clip in radians, from the strongest corner component."""
    turns = {corners: _corner_phase(foreground, corners) for corners in CORNERS.values()}
    strongest = max(turns, key=lambda corners: float(np.abs(turns[corners]).mean()))
    angle = np.unwrap(np.angle(turns[strongest])) / strongest
    return float(angle[-1] - angle[0])


def _corner_phase(foreground: Foreground, corners: int) -> NDArray[np.complex128]:
    """Compute the shape's Fourier component with `corners` corners, one complex number per frame.

    Its angle turns `corners` times as fast as the shape.
    """
    count, height, width = foreground.cover.shape
    half_side = min(height, width) / 2.0
    rows = (np.arange(height) + 0.5 - height / 2.0) / half_side - foreground.y[:, None]
    columns = (np.arange(width) + 0.5 - width / 2.0) / half_side - foreground.x[:, None]
    place = (columns[:, None, :] + 1j * rows[:, :, None]) / foreground.size[:, None, None]
    away = np.maximum(np.abs(place), 1e-6)
    component = away**2 * (place / away) ** corners * (away < 2.5)
    moment: NDArray[np.complex128] = (foreground.cover * component).sum(axis=(1, 2)) / foreground.cover.sum(axis=(1, 2))
    return moment.reshape(count)


def _overlap(shape: str, foreground: Foreground, at: int) -> float:
    """Return the best intersection over union, over all angles, of a frame with a shape of the same size."""
    seen = foreground.cover[at]
    angles = np.arange(TEMPLATE_ANGLES) * 2.0 * np.pi / (TEMPLATE_ANGLES * CORNERS.get(shape, 1))
    same = np.ones(TEMPLATE_ANGLES)
    size = foreground.size[at] * _size_over_area_radius(shape)
    motion = Motion(foreground.x[at] * same, foreground.y[at] * same, size=size * same, angle=angles)
    templates = coverage(shape, motion, video=VideoShape(TEMPLATE_ANGLES, *seen.shape))
    union = np.maximum(templates, seen).sum(axis=(1, 2))
    return float((np.minimum(templates, seen).sum(axis=(1, 2)) / union).max())


def _size_over_area_radius(shape: str) -> float:
    """Return a Scene's `size` of this shape over the radius of the circle with the shape's area.

    It is measured on one large picture.
    """
    one, zero = np.ones(1), np.zeros(1)
    side = 128
    area = coverage(shape, Motion(zero, zero, size=0.5 * one, angle=zero), video=VideoShape(1, side, side)).sum()
    return float(0.5 / (np.sqrt(area / np.pi) / (side / 2.0)))
