"""Child processes that end with the block that uses them."""

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def child_process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process, with the options of Popen, and wait for its end. A block that fails kills it first.

    Popen as a context manager waits without a limit then, so that a test that fails would never end.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
