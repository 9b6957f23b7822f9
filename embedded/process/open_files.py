"""Open files: each connection to the server takes one, so a low limit keeps callers out."""

import contextlib
import resource

WANTED = 65536
LEAST = 1024  # some 250 are the server's own


def raise_limit() -> int:
    """Raise the limit on open files of this process and its children as far as is allowed. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, WANTED), hard):  # the first as root alone
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, WANTED)), most))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
