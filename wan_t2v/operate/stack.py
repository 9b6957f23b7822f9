"""The stack of a program that is about to become tritonserver. Standard library only."""

import resource

STACK_BYTES = 256 * 2**20


def deepen_stack() -> None:
    """Raise the soft limit of the stack as far as is allowed.

    Triton 2.51 reads an HTTP body into arrays on the stack of its thread: with 8 MiB a form of 5 MB ends it (server
    issue 5840). Threads take their stack size from this limit; memory is used only as far as the stack is.
    """
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, most))
