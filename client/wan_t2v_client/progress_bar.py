"""What the command shows while a video is made: a bar on a terminal, and previews as files."""

import sys
from pathlib import Path
from types import TracebackType

from wan_t2v_client.errors import Unavailable
from wan_t2v_client.progress import Progress

WIDTH = 24
WAIT_WIDTH = 79  # a longer line wraps, and only its last row would be overwritten


class ProgressBar:
    """A bar on standard error, if that is a terminal; previews go to `folder` as `step-0005.png`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> "ProgressBar":
        self._print("waiting for the first step ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print("")

    def show(self, progress: Progress) -> None:
        """Show a finished step."""
        if progress.preview is not None and self._folder is not None:
            (self._folder / f"step-{progress.step:04d}.png").write_bytes(progress.preview)
        self._print(line(progress))

    def show_wait(self, error: Unavailable, wait_s: float) -> None:
        """Show that the request is tried again, and why."""
        self._print(f"trying again in {wait_s:.0f} s: {error}"[:WAIT_WIDTH])

    def _print(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def line(progress: Progress) -> str:
    """`[######..................] step 10/40, high noise expert, 12 s left`."""
    done = WIDTH * progress.step // progress.num_inference_steps
    bar = "#" * done + "." * (WIDTH - done)
    expert = progress.expert.replace("_", " ")
    return f"[{bar}] step {progress.step}/{progress.num_inference_steps}, {expert}, {progress.left_s:.0f} s left"
