"""A request's idempotency key: the same key of the same caller stands for the same video."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wan_t2v.request import RequestError

# Parameters of a request, not tensors: they change when a video is made and not what it is.
KEY, CALLER = "idempotency_key", "caller"
RESUME_PARAMETERS = (KEY, CALLER)
LONGEST = 256  # characters of a key, and of a caller


class AlreadyRunning(Exception):
    """The same caller's request with the same key is being worked on; the message says what to do."""


class KeyOfAnotherRequest(Exception):
    """The key was used for a request with other fields; the message names the remedy."""


def asked_key(request: Any) -> tuple[str, str] | None:
    """The request's key and caller; None without a key. Raises RequestError.

    Who the caller is, an authenticating proxy says in a header that the server forwards as the parameter `caller`.
    """
    parameters: Mapping[str, Any] = json.loads(request.parameters() or "{}")
    if KEY not in parameters:
        return None
    key, caller = (parameters.get(name, "") for name in RESUME_PARAMETERS)
    for name, value in ((KEY, key), (CALLER, caller)):
        if not isinstance(value, str) or len(value) > LONGEST or (name == KEY and not value):
            raise RequestError(name, repr(value)[:LONGEST], f"a text of 1 to {LONGEST} characters")
    return key, caller


def seed_of_key(request: Any) -> int | None:
    """The seed of a request with a key and no seed: the same each time it is sent, or its video would be another."""
    asked = asked_key(request)
    if asked is None:
        return None
    return int.from_bytes(hashlib.sha256("\0".join(asked).encode()).digest()[:4], "big")
