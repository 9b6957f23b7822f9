"""Callbacks of a TensorRT build: log file, errors, layers, progress bar, Ctrl-C, and the plan's bytes."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

_FATAL = ("ERROR", "INTERNAL_ERROR")
_LISTING = "Layers:\n"  # how TensorRT's message about the layers of a plan begins


@contextlib.contextmanager
def build_log(trt: Any, path: Path | None) -> Iterator[Any]:
    """Yield a TensorRT logger that writes to the file at `path` (None: nowhere) and keeps errors in `.errors`.

    `.listing` is what it said about the layers of the plan, which needs detailed profiling verbosity.
    """
    with contextlib.ExitStack() as stack:
        file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w", encoding="utf-8", buffering=1))
        yield _logger(trt, file)


def _logger(trt: Any, file: TextIO | None) -> Any:
    class BuildLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.listing = ""

        def log(self, severity: Any, message: str) -> None:
            if severity.name in _FATAL:
                self.errors.append(message)
            if message.startswith(_LISTING):
                self.listing += message.removeprefix(_LISTING)
            if file is not None and severity.name != "VERBOSE":
                file.write(f"{severity.name}: {message}\n")

    return BuildLog()


class Interrupted:
    """Ctrl-C during a build. Raised inside one of TensorRT's callbacks it would end the process, so it is noted here,
    the next callback asks TensorRT to stop, and it is raised when TensorRT has returned.
    """

    def __init__(self) -> None:
        self.requested = False

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requested = True


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Hold Ctrl-C back while TensorRT runs. Raises KeyboardInterrupt at the end if there was one."""
    interrupted = Interrupted()
    if threading.current_thread() is not threading.main_thread():  # only there does Python handle signals
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, interrupted.note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.requested:
        raise KeyboardInterrupt


def progress_monitor(trt: Any, title: str, interrupted: Interrupted) -> Any:
    """TensorRT's progress as one bar: the outermost phase counts, the innermost one is named."""

    class ProgressBar(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._bar: Any = None
            self._outermost = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if self._bar is None:
                self._outermost = phase_name
                self._bar = tqdm(total=num_steps, desc=title, leave=False, disable=None)
            self._bar.set_postfix_str(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._outermost:
                self._bar.update(step + 1 - self._bar.n)
            return not interrupted.requested

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._outermost:
                if not interrupted.requested:
                    self._bar.update(self._bar.total - self._bar.n)
                self._bar.close()
                self._bar = None

    return ProgressBar()


def plan_writer(trt: Any, file: BinaryIO) -> Any:
    """A TensorRT stream writer into `file`. An exception raised inside its callback would end the process, so `.error`
    keeps it (a full disk) and TensorRT is told that nothing was written.
    """

    class PlanWriter(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return PlanWriter()
