"""The limit on open files: each connection to the server takes one, so a low limit rejects callers."""

import contextlib
import resource

WANTED = 65536
LEAST = 1024  # the server itself needs about 250


def raise_limit() -> int:
    """Raise the limit on open files of this process and its children as far as permitted. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, WANTED), hard):  # only root may raise the hard limit
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, WANTED)), most))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
