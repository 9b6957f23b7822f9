"""Motion of a shape: its position, size and angle in every frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.scenes import Scene

Track = NDArray[np.float64]  # one value per frame

# Amounts over a whole clip, by speed: lengths in half picture sides, angles in radians.
TRAVEL = {"slow": 0.4, "normal": 0.6, "fast": 0.8}
TURN = {"slow": np.pi / 2, "normal": np.pi, "fast": 1.4 * np.pi}
ROUND = {"slow": np.pi, "normal": 1.5 * np.pi, "fast": 2.0 * np.pi}
GROWTH = {"slow": 1.6, "normal": 2.0, "fast": 2.4}  # largest over smallest size
ROUND_RADIUS = 0.36
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up_left": (-1, -1),
    "up_right": (1, -1),
    "down_left": (-1, 1),
    "down_right": (1, 1),
}


@dataclass(frozen=True)
class Motion:
    """Centre (`x`, `y`, y down), `size` and `angle` (radians, clockwise on the screen), each one value per frame."""

    x: Track
    y: Track
    size: Track
    angle: Track


def motion_of(scene: Scene, frames: int) -> Motion:
    """Compute the motion of a scene's shape over `frames` frames. Rotating and circling are clockwise."""
    time = np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)
    still = np.zeros(frames)
    x, y, size, angle = still + scene.x, still + scene.y, still + scene.size, still
    if scene.motion in DIRECTIONS:
        across, down = DIRECTIONS[scene.motion]
        x, y = x + across * TRAVEL[scene.speed] * time, y + down * TRAVEL[scene.speed] * time
    elif scene.motion == "circling":
        around = scene.phase + ROUND[scene.speed] * time
        x, y = x + ROUND_RADIUS * np.cos(around), y + ROUND_RADIUS * np.sin(around)
    elif scene.motion == "rotating":
        angle = TURN[scene.speed] * (time + 0.5)
    else:
        sign = 1.0 if scene.motion == "growing" else -1.0
        size = size * GROWTH[scene.speed] ** (sign * time)
    return Motion(x, y, size, angle)
