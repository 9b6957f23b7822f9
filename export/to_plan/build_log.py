"""Callbacks of a TensorRT build: logger, progress monitor, stream writer."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

from export.interruption import Interrupted

_FATAL = ("ERROR", "INTERNAL_ERROR")
_LISTING = "Layers:\n"  # first line of TensorRT's message that lists a plan's layers


@contextlib.contextmanager
def build_log(trt: Any, path: Path | None) -> Iterator[Any]:
    """Yield a TensorRT logger that writes to the file at `path` (None: no file) and keeps errors in `.errors`.

    `.listing` is TensorRT's list of the plan's layers, which it logs with detailed profiling verbosity only.
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


class _PhaseBar:
    """Progress bar that counts the outermost phase and names the current one.

    TensorRT calls it from several threads. Phases of one name may overlap; the bar ends with the last of them.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._outermost = ""
        self._open = 0  # phases of the outermost's name
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Guard one callback: an exception that leaves it would cancel a build of hours, for a bar."""
        with self._lock, contextlib.suppress(Exception):
            yield

    def start(self, phase: str, steps: int) -> None:
        """Begin a phase."""
        if self._bar is None:
            self._outermost, self._open = phase, 0
            self._bar = tqdm(total=steps, desc=self._title, leave=False, disable=None)
        self._open += phase == self._outermost
        self._bar.set_postfix_str(phase)

    def step(self, phase: str, step: int) -> None:
        """Count a step, from 0, of a phase."""
        if self._bar is not None and phase == self._outermost:
            self._bar.update(step + 1 - self._bar.n)

    def finish(self, phase: str, *, whole: bool) -> None:
        """End a phase. `whole`: with all its steps."""
        if self._bar is None or phase != self._outermost:
            return
        self._open -= 1
        if self._open:
            return
        bar, self._bar = self._bar, None
        if whole:
            bar.update(bar.total - bar.n)
        bar.close()


def progress_monitor(trt: Any, title: str, interrupted: Interrupted) -> Any:
    """Return a TensorRT progress monitor with one bar. Its callbacks raise nothing."""

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._bar = _PhaseBar(title)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._bar.quietly():
                self._bar.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._bar.quietly():
                self._bar.step(phase_name, step)
            return not interrupted.requested

        def phase_finish(self, phase_name: str) -> None:
            with self._bar.quietly():
                self._bar.finish(phase_name, whole=not interrupted.requested)

    return ProgressMonitor()


def plan_writer(trt: Any, file: BinaryIO) -> Any:
    """Return a TensorRT stream writer into `file`.

    An exception inside its callback would end the process. An OSError, such as for a full disk, is kept in `.error`,
    and the callback returns that 0 bytes were written.
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
