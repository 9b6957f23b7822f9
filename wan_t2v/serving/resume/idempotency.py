"""A request's idempotency key: the same key of the same caller identifies the same video."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.errors import ParameterError

KEY, CALLER = "idempotency_key", "caller"
LONGEST = 256  # characters of a key, and of a caller
VARIABLE = "WAN_T2V_CALLER_KEY"
SHORTEST_SECRET = 16


@dataclass(frozen=True)
class RequestKey:
    """A key and its caller, which is empty if no trusted proxy names one."""

    key: str
    caller: str

    @property
    def seed(self) -> int:
        """Seed for a request without one: derived from the key, so that a repeated request gives the same video."""
        return int.from_bytes(hashlib.sha256(f"{self.key}\0{self.caller}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class TrustedProxy:
    """The proxy that authenticates callers, and the secret that it shares with the server; empty for no proxy.

    Triton turns a forwarded header into a parameter, and an unknown key in HTTP's JSON too. So the header's value is
    `<secret> <caller>`: only the proxy can name the caller, over gRPC and HTTP.
    """

    secret: str = field(default="", repr=False)

    @classmethod
    def of_environment(cls) -> "TrustedProxy":
        """Read the secret from WAN_T2V_CALLER_KEY. Raises ParameterError if it is too short or has spaces."""
        secret = os.environ.get(VARIABLE, "")
        if secret and (len(secret) < SHORTEST_SECRET or " " in secret):
            raise ParameterError(f"{VARIABLE} is accepted with {SHORTEST_SECRET} characters or more, without spaces")
        return cls(secret)

    def key_of(self, parameters: Mapping[str, Any]) -> RequestKey | None:
        """Read key and caller from a request's parameters; None without a key.

        Raises InvalidField, also for a caller's name that the trusted proxy did not set.
        """
        caller = self._caller([value for name, value in parameters.items() if name.lower() == CALLER])
        if KEY not in parameters:
            return None
        key = parameters[KEY]
        if not isinstance(key, str) or not key or len(key) > LONGEST:
            raise InvalidField(KEY, repr(key)[:LONGEST], f"a text of 1 to {LONGEST} characters")
        return RequestKey(key, caller)

    def _caller(self, claims: list[Any]) -> str:
        if not claims:
            return ""
        if not self.secret:
            raise InvalidField(CALLER, "a caller's name", f"none: this server trusts no proxy ({VARIABLE} is not set)")
        secret, _, name = str(claims[0]).partition(" ")
        known = hmac.compare_digest(secret.encode(), self.secret.encode())
        if len(claims) > 1 or not known or not 1 <= len(name) <= LONGEST:
            accepted = f"one header of the trusted proxy, its key and a name of at most {LONGEST} characters"
            raise InvalidField(CALLER, "a value that is not the trusted proxy's", accepted)
        return name
