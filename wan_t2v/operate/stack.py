"""The stack of a program that is about to become or to start tritonserver. Standard library only."""

import resource

STACK_BYTES = 256 * 2**20


def deepen_stack() -> None:
    """Set the soft limit of the stack to STACK_BYTES, or to the hard limit if that is lower.

    Triton 2.51 reads an HTTP body into arrays on its thread's stack: with 8 MiB a form of 5 MB crashes it (server
    issue 5840). Threads take their stack size from this limit; memory is used only as far as the stack grows.
    """
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, most))
