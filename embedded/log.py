"""Triton's log: its first error that matters, and whether the server was told to stop."""

import re
from pathlib import Path

# Said on every machine without a GPU, and of no consequence there.
_HARMLESS = ("CudaDriverHelper has not been initialized", "unable to create stream", "Failed to initialize NVML")
_STOPPED = re.compile(r"^Signal \((2|15)\) received", re.MULTILINE)
_ERROR = re.compile(r"^(?:E\d{4} .*?\] |error: )(.*)$", re.MULTILINE)


def first_error(log: Path) -> str | None:
    """The first error of the log that matters, without time stamp, quotes and traceback; None if there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    for message in _ERROR.findall(text):
        if not any(harmless in message for harmless in _HARMLESS):
            return _plain(message)
    return None


def was_told_to_stop(log: Path) -> bool:
    """Whether somebody sent the server SIGTERM or SIGINT; its exit code is not 0 if work kept it past its time."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return _STOPPED.search(text) is not None


def _plain(message: str) -> str:
    """Triton logs a Python failure with its whole traceback on one line; its last sentence is the reason."""
    message = message.strip().strip('"').replace("\\n", "\n").replace('\\"', '"')
    before, _, _ = message.partition("\n\nAt:\n")
    return " ".join(before.split())
