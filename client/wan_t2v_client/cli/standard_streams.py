"""Standard output and standard error: a failed write ends in one line, never in a traceback."""

import os
import select
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
        _write(sys.stdout, text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    except OSError as error:
        _abandon(sys.stdout)
        raise StandardOutputError(f"standard output: {error.strerror}") from None


def tell(text: str, *, end: str = "\n") -> None:
    """Print to standard error. A failure is ignored, so that a message never ends the work."""
    if sys.stderr is None:  # print would then use standard output
        return
    try:
        _write(sys.stderr, text + end)
    except OSError:
        _abandon(sys.stderr)


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def write_through(descriptor: int, data: bytes) -> None:
    """Write all of the data. Waits while the descriptor takes no more, also if it is non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _wait_until_writable(descriptor)


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()  # select.select takes no descriptor above 1023
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def _write(stream: TextIO, text: str) -> None:
    """Write and flush. Python's own streams lose what a non-blocking descriptor does not take at once."""
    descriptor = _non_blocking_descriptor(stream)
    if descriptor is None:
        print(text, end="", file=stream, flush=True)
        return
    write_through(descriptor, text.encode(stream.encoding or "utf-8", stream.errors or "strict"))


def _non_blocking_descriptor(stream: TextIO) -> int | None:
    """Return the stream's descriptor if it is non-blocking: whoever shares a pipe or terminal can make it so."""
    try:
        descriptor = stream.fileno()
        return None if os.get_blocking(descriptor) else descriptor
    except (AttributeError, OSError):  # Windows before 3.12; no file behind it
        return None


def _abandon(stream: TextIO) -> None:
    """Redirect the stream to the null device: at exit the interpreter would flush it again, and print an error."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
