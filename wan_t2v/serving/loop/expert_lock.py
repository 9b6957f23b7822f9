"""The lock on a server's experts: one clip at a time uses them, over all processes."""

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from wan_t2v.cancellation import Cancelled

POLL_S = 0.05


def server_lock_name() -> str:
    """Return a lock name that all Python models of this server share, and no other server.

    Their parent process is the server; its id is unique within its process namespace.
    """
    return f"wan-t2v-expert-swap-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getppid()}"


def lock_experts(name: str, is_cancelled: Callable[[], bool]) -> socket.socket:
    """Acquire a lock between threads and processes, held until the socket is closed. Raises Cancelled.

    Only one socket can bind an abstract name. It leaves no file, and the kernel frees it when its process dies.
    """
    while (lock := try_bind(name)) is None:
        if is_cancelled():
            raise Cancelled("cancelled while another clip had the experts")
        time.sleep(POLL_S)
    return lock


def try_bind(name: str) -> socket.socket | None:
    """Bind the lock's socket; None if the lock is held. Raises OSError for any other failure."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0{name}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock
