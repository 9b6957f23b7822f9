"""Kernel settings of a child process: SIGTERM if the parent dies; of tritonserver also private files and a deep stack.

`confine` and `end_with_parent` are for `preexec_fn` of Popen. Call `prepare_fork` before it.
"""

import os
import signal

from embedded.private_regions import keep_regions_private
from embedded.process.libc import libc_function
from wan_t2v.operate.stack import deepen_stack

PRIVATE_UMASK = 0o077
_PR_SET_PDEATHSIG = 1


def prepare_fork() -> None:
    """Look up what `confine` and `end_with_parent` call, so that the child need not ask the loader."""
    for name in ("prctl", "syscall"):
        libc_function(name)


def confine() -> None:
    """Apply the settings: end with the parent, private files and shared memory, a deep stack."""
    end_with_parent()
    os.umask(PRIVATE_UMASK)
    keep_regions_private()
    deepen_stack()


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when the thread that started it ends, such as by SIGKILL."""
    libc_function("prctl")(_PR_SET_PDEATHSIG, signal.SIGTERM)
