"""Callbacks of a TensorRT build: logger, progress monitor, stream writer."""

import contextlib
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


def progress_monitor(trt: Any, title: str, interrupted: Interrupted) -> Any:
    """Return a TensorRT progress monitor with one bar: it counts the outermost phase and names the current one."""

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
