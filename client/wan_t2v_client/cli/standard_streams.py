"""Standard output and standard error: a failed write ends in one line, never in a traceback."""

import os
import sys
from contextlib import suppress
from typing import TextIO


class StandardOutputError(Exception):
    """Standard output is closed, full, or its reader is gone."""


def print_result(text: str) -> None:
    """Print to standard output. Characters that its encoding lacks become escapes. Raises StandardOutputError."""
    if sys.stdout is None:  # closed before the command began
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        _abandon(sys.stdout)
        raise StandardOutputError(f"standard output: {error.strerror}") from None


def tell(text: str, *, end: str = "\n") -> None:
    """Print to standard error. A failure is ignored, so that a message never ends the work."""
    if sys.stderr is None:  # print would then use standard output
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _abandon(stream: TextIO) -> None:
    """Redirect the stream to the null device: at exit the interpreter would flush it again, and print an error."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
