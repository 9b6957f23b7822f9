"""Kernel settings of the process that becomes tritonserver: private files, a deep stack, an end with its parent."""

import ctypes
import os
import signal

from embedded.private_regions import keep_regions_private
from wan_t2v.operate.stack import deepen_stack

PRIVATE_UMASK = 0o077
_PR_SET_PDEATHSIG = 1


def confine() -> None:
    """End with the parent, make files and shared memory for this user alone, and take a deep stack."""
    end_with_parent()
    os.umask(PRIVATE_UMASK)
    keep_regions_private()
    deepen_stack()


def end_with_parent() -> None:
    """Ask the kernel to end this process if its parent is killed and cannot."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
