"""Contact sheets: frames of clips side by side in one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from export.atomic import write_atomically
from training.world.render import Frames

GAP_PX = 2


def film_strip(frames: Frames, *, shown: int = 6) -> Frames:
    """Join `shown` evenly spaced frames of a clip (T, H, W, 3) from left to right: (1, H, shown * (W + gap), 3)."""
    chosen = frames[np.linspace(0, len(frames) - 1, shown).round().astype(int)]
    padded = np.pad(chosen, ((0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=128)
    return np.concatenate(list(padded), axis=1)[None]


def write_contact_sheet(path: Path, clips: Sequence[Frames], *, shown: int = 6, columns: int = 1) -> Path:
    """Write one strip per clip as a PNG, in rows of `columns` strips. Returns `path`."""
    strips = [film_strip(frames, shown=shown)[0] for frames in clips]
    while len(strips) % columns:
        strips.append(np.zeros_like(strips[0]))
    rows = [np.concatenate(strips[at : at + columns], axis=1) for at in range(0, len(strips), columns)]
    with write_atomically(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial, format="png")
    return path
