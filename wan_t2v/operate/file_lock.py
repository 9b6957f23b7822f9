"""File locks between processes (`flock`): freed by the kernel when their holder dies, however it dies."""

import fcntl
import os
from pathlib import Path


def lock(descriptor: int) -> None:
    """Lock an open file or folder, waiting for the current holder. Closing the descriptor frees the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder without waiting. Returns whether that succeeded."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at `path`: another process may have removed it before it was locked here."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
