"""Make the README's pictures of generated videos: an animated GIF and a contact sheet.

    make pictures        or        python -m training.judge.pictures --url 127.0.0.1:8001

Each prompt is a combination of colour, shape and motion that is not in the training set.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from wan_t2v_client import ClientError

from embedded.errors import ServerError
from export.atomic import write_atomically
from training.contact_sheet import write_contact_sheet
from training.judge.through_server import connect, generate_through
from training.world.prompts import Prompt, fixed_prompts
from training.world.render import Frames

MOTIONS = ("left", "right", "growing", "up_right")
SCALE = 2  # an integer factor enlarges the small clips without interpolation
GAP_PX = 8
FRAME_MS = 62  # 16 frames a second


def shown_prompts() -> list[Prompt]:
    """Return the first fixed prompt for each of MOTIONS, without repeating a shape."""
    chosen: list[Prompt] = []
    for motion in MOTIONS:
        shapes = {prompt.scene.shape for prompt in chosen}
        chosen.append(next(p for p in fixed_prompts() if p.scene.motion == motion and p.scene.shape not in shapes))
    return chosen


def side_by_side(clips: Sequence[Frames]) -> Frames:
    """Join clips of one size in a row with white gaps, enlarged by SCALE: (T, H, W, 3)."""
    enlarged = [clip.repeat(SCALE, axis=1).repeat(SCALE, axis=2) for clip in clips]
    gap = np.full((*enlarged[0].shape[:2], GAP_PX, 3), 255, dtype=np.uint8)
    parts = [part for clip in enlarged for part in (clip, gap)]
    return np.concatenate(parts[:-1], axis=2)


def write_animation(path: Path, frames: Frames) -> Path:
    """Write frames (T, H, W, 3) as a GIF that loops for ever. Returns `path`."""
    images = [Image.fromarray(frame) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        images[0].save(partial, format="gif", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the shown prompts and write both pictures. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.judge.pictures", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", help="gRPC address of a running server (default: start one)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write to")
    options = parser.parse_args(arguments)
    prompts = shown_prompts()
    try:
        with connect(options.url, options.repository) as client:
            clips = [generate_through(client)(prompt.text, prompt.seed) for prompt in prompts]
    except (ServerError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_animation(options.out / "generated.gif", side_by_side(clips))
    write_contact_sheet(options.out / "generated.png", clips)
    for prompt in prompts:
        print(f"{prompt.text} (seed {prompt.seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
