"""Kernel settings of the process that becomes tritonserver: private files, a deep stack, SIGTERM if the parent dies."""

import ctypes
import os
import signal

from embedded.private_regions import keep_regions_private
from wan_t2v.operate.stack import deepen_stack

PRIVATE_UMASK = 0o077
_PR_SET_PDEATHSIG = 1


def confine() -> None:
    """Apply the settings: end with the parent, private files and shared memory, a deep stack."""
    end_with_parent()
    os.umask(PRIVATE_UMASK)
    keep_regions_private()
    deepen_stack()


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent dies, such as by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
