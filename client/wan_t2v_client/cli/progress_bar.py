"""Progress on a terminal as a bar, and previews as files."""

from pathlib import Path
from types import TracebackType

from wan_t2v_client.cli.output_file import OutputFile
from wan_t2v_client.cli.standard_streams import is_terminal, tell
from wan_t2v_client.errors import Unavailable
from wan_t2v_client.progress import Heartbeat, Progress

WIDTH = 24
WAIT_WIDTH = 79  # a longer line wraps, and only its last row would be overwritten


class ProgressBar:
    """A bar on standard error, if that is a terminal; previews go to `folder` as `step-0005.png`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._shown = is_terminal()

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
            self._keep_preview(self._folder / f"step-{progress.step:04d}.png", progress.preview)
        self._print(line(progress))

    def show_heartbeat(self, beat: Heartbeat) -> None:
        """Show the stage before the first step and after the last; between them the bar shows the steps."""
        if beat.stage != "denoise":
            self._print(waiting_line(beat))

    def show_wait(self, error: Unavailable, wait_s: float) -> None:
        """Show that the request will be tried again, and why."""
        self._print(f"trying again in {wait_s:.0f} s: {error}"[:WAIT_WIDTH])

    def _keep_preview(self, path: Path, preview: bytes) -> None:
        """Write a preview. The video is worth more, so a failure is told and ends nothing."""
        try:
            with OutputFile(path) as file:
                file.write(preview)
        except OSError as error:
            self._print("")
            tell(f"wan-t2v: warning: {path}: {error.strerror}; the video goes on without this preview")

    def _print(self, text: str) -> None:
        if self._shown:
            tell(f"\r\033[K{text}", end="")


_STAGES = {
    "queue": "waiting for its turn",
    "prepare": "reading the prompt",
    "load": "loading an expert",
    "decode": "decoding",
    "encode": "encoding",
}


def waiting_line(beat: Heartbeat) -> str:
    """Format a heartbeat: `waiting for its turn, 3 generations go first, 12 s`."""
    first = "" if beat.ahead is None else f", {beat.ahead} generation{'s go' if beat.ahead != 1 else ' goes'} first"
    return f"{_STAGES.get(beat.stage, beat.stage)}{first}, {beat.stage_s:.0f} s"


def line(progress: Progress) -> str:
    """Format a step: `[######..................] step 10/40, high noise expert, 12 s left`."""
    done = WIDTH * progress.step // progress.num_inference_steps
    bar = "#" * done + "." * (WIDTH - done)
    expert = progress.expert.replace("_", " ")
    return f"[{bar}] step {progress.step}/{progress.num_inference_steps}, {expert}, {progress.left_s:.0f} s left"
