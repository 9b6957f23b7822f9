"""Parameters of a request: timeout, priority, idempotency key, caller. Parsed once, where a request arrives."""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.resume.idempotency import CALLER, KEY, RequestKey, TrustedProxy

# These are parameters and not tensors: they affect when a video is made, but not its content.
TIMEOUT, PRIORITY = "timeout", "queue_priority"
PARAMETERS = (TIMEOUT, PRIORITY, KEY, CALLER)
LIMITS = "limits"  # requests the limits from the streaming endpoint, instead of a video
ADMITTED = "let_in"  # from the streaming endpoint to `prepare`; only this server's processes know the value
FIRST, DEFAULT_PRIORITY, LAST = 1, 5, 9


@dataclass(frozen=True)
class RequestOptions:
    """A request's parameters, checked.

    Attributes:
        names: names of all received parameters, in the documented case even if HTTP changed a header's. A valid
            ADMITTED is left out.
        timeout_s: seconds that the caller waits from now on; None for no limit.
        priority: from 1, which goes first, to 9.
        key: the idempotency key and its caller; None without one.
        is_admitted: whether the streaming endpoint of this server has admitted the request already.
        asks_for_limits: whether it requests the limits instead of a video.
    """

    names: tuple[str, ...] = ()
    timeout_s: float | None = None
    priority: int = DEFAULT_PRIORITY
    key: RequestKey | None = None
    is_admitted: bool = False
    asks_for_limits: bool = False

    @classmethod
    def from_triton(cls, request: Any, proxy: TrustedProxy, *, run_key: str = "") -> "RequestOptions":
        """Read a Triton request. `run_key` is the value of ADMITTED among this server's processes. Raises InvalidField.

        Triton removes its own `timeout` (microseconds) from the parameters over gRPC, but not over HTTP's `generate`.
        It passes its `priority` to no Python model, so this parameter has another name.
        """
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
        is_admitted = _is_secret(parameters.get(ADMITTED), run_key)
        if is_admitted:
            del parameters[ADMITTED]
        timeout_us = request.timeout() or _integer(parameters, TIMEOUT, least=1)
        return cls(
            names=tuple(sorted(CALLER if name.lower() == CALLER else name for name in parameters)),
            timeout_s=timeout_us / 1e6 if timeout_us else None,
            priority=_integer(parameters, PRIORITY, least=FIRST, most=LAST) or DEFAULT_PRIORITY,
            key=proxy.key_of(parameters),
            is_admitted=is_admitted,
            asks_for_limits=_flag(parameters, LIMITS),
        )


def _is_secret(value: object, secret: str) -> bool:
    return bool(secret) and isinstance(value, str) and hmac.compare_digest(value.encode(), secret.encode())


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidField(name, repr(value), "true")
    return value


def _integer(parameters: Mapping[str, Any], name: str, *, least: int, most: int | None = None) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        accepted = (
            f"an integer from {least} up (microseconds)" if most is None else f"an integer from {least} to {most}"
        )
        raise InvalidField(name, value, accepted)
    return int(value)
