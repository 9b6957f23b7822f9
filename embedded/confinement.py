"""What the kernel is asked for in the child process that becomes tritonserver, before it does."""

import ctypes
import os
import resource
import signal

from embedded.private_regions import keep_regions_private

STACK_BYTES = 256 * 2**20
PRIVATE_UMASK = 0o077
_PR_SET_PDEATHSIG = 1


def confine() -> None:
    """End with the parent, make files and shared memory for this user alone, and take a deep stack."""
    end_with_parent()
    os.umask(PRIVATE_UMASK)
    keep_regions_private()
    _deepen_stack()


def end_with_parent() -> None:
    """Ask the kernel to end this process if its parent is killed and cannot."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _deepen_stack() -> None:
    """Raise the soft limit of the stack as far as is allowed.

    Triton 2.51 reads an HTTP body into arrays on the stack of its thread: with 8 MiB a form of 5 MB ends it (server
    issue 5840). Threads take their stack size from this limit; memory is used only as far as the stack is.
    """
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, most))
