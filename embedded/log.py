"""Triton's log: its first relevant error, and whether the server received a signal to stop."""

import re
from pathlib import Path

# Logged on every machine without a GPU, and harmless there.
_HARMLESS = ("CudaDriverHelper has not been initialized", "unable to create stream", "Failed to initialize NVML")
_STOPPED = re.compile(r"^Signal \((2|15)\) received", re.MULTILINE)
_ERROR = re.compile(r"^(?:E\d{4} .*?\] |error: )(.*)$", re.MULTILINE)


def first_error(log: Path) -> str | None:
    """Return the log's first relevant error, without time stamp, quotes and traceback; None if there is none."""
    for message in _ERROR.findall(_text(log)):
        if not any(harmless in message for harmless in _HARMLESS):
            return _plain(message)
    return None


def was_told_to_stop(log: Path) -> bool:
    """Whether the server received SIGTERM or SIGINT. Its exit code does not tell: running work can make it non-zero."""
    return _STOPPED.search(_text(log)) is not None


def _text(log: Path) -> str:
    """Read the log; empty if that is not possible, such as since somebody removed it."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _plain(message: str) -> str:
    """Return the reason of an error: Triton logs a Python failure on one line, with the traceback after the reason."""
    message = message.strip().strip('"').replace("\\n", "\n").replace('\\"', '"')
    before, _, _ = message.partition("\n\nAt:\n")
    return " ".join(before.split())
