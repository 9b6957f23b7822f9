"""Rendering of scenes: anti-aliased shapes from signed distances, with numpy only."""

import numpy as np
from numpy.typing import NDArray

from training.world.motion import Motion, motion_of
from training.world.scenes import BACKGROUNDS, COLOURS, Scene
from wan_t2v.shapes import VideoShape

Frames = NDArray[np.uint8]  # (T, H, W, 3) sRGB
Plane = NDArray[np.float32]

CORNERS = {"square": 4, "triangle": 3, "star": 5}
STAR_WAIST = 0.5  # inner over outer radius
# Outer radius at size 1. The square has about the area of the circle; triangle and star have less, to stay inside.
OUTER_RADIUS = {"circle": 1.0, "square": 1.25, "triangle": 1.4, "star": 1.4}
# Direction of a shape's first corner at angle 0: the square lies flat, triangle and star point up.
FIRST_CORNER = {"square": np.pi / 4, "triangle": -np.pi / 2, "star": -np.pi / 2}


def render(scene: Scene, video: VideoShape) -> Frames:
    """Render the clip of a scene as (T, H, W, 3) uint8."""
    motion = motion_of(scene, video.frames)
    return paint(coverage(scene.shape, motion, video=video), COLOURS[scene.colour], BACKGROUNDS[scene.background])


def paint(cover: Plane, colour: tuple[int, int, int], background: tuple[int, int, int]) -> Frames:
    """Blend a colour over a background by `cover` (T, H, W) in [0, 1]."""
    back, front = np.array(background, np.float32), np.array(colour, np.float32)
    return np.rint(back + cover[..., None] * (front - back)).astype(np.uint8)


def coverage(shape: str, motion: Motion, *, video: VideoShape) -> Plane:
    """Compute the share of each pixel that the shape covers, (T, H, W) in [0, 1]."""
    pixels = min(video.height, video.width) / 2.0  # half a side in pixels
    rows = (np.arange(video.height, dtype=np.float32) + 0.5 - video.height / 2.0) / pixels
    columns = (np.arange(video.width, dtype=np.float32) + 0.5 - video.width / 2.0) / pixels
    across = columns[None, None, :] - _frame_axis(motion.x)
    down = rows[None, :, None] - _frame_axis(motion.y)
    outside = signed_distance(shape, across, down=down, size=_frame_axis(motion.size), angle=_frame_axis(motion.angle))
    return np.clip(0.5 - outside * pixels, 0.0, 1.0)


def signed_distance(shape: str, across: Plane, *, down: Plane, size: Plane, angle: Plane) -> Plane:
    """Compute the distance to the outline, negative inside. It is exact along edges and a little short at corners."""
    radius = np.hypot(across, down)
    outer = size * OUTER_RADIUS[shape]
    if shape == "circle":
        return radius - outer
    half_sector = np.float32(np.pi / CORNERS[shape])
    turned = np.arctan2(down, across) - angle - np.float32(FIRST_CORNER[shape])
    folded = np.abs((turned + half_sector) % (2 * half_sector) - half_sector)  # angle to the nearest corner
    waist = outer * (STAR_WAIST if shape == "star" else np.cos(half_sector))
    return _beyond_edge(radius * np.cos(folded), radius * np.sin(folded), outer=outer, waist=waist, sector=half_sector)


def _beyond_edge(x: Plane, y: Plane, *, outer: Plane, waist: Plane, sector: np.float32) -> Plane:
    """Compute the distance beyond the line from the corner (outer, 0) to the waist point at angle `sector`."""
    edge_x, edge_y = waist * np.cos(sector) - outer, waist * np.sin(sector)
    return ((x - outer) * edge_y - y * edge_x) / np.hypot(edge_x, edge_y)


def _frame_axis(track: NDArray[np.float64]) -> Plane:
    return track.astype(np.float32)[:, None, None]
