"""Settings that `prepare` sends to the later steps, signed with the key in this server's run directory.

Any caller can call any model through Triton. The later steps trust their settings, so they accept only those that
`prepare` checked. The signature covers all settings, the generation's id and its deadline.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.request import Settings

LONGEST_BYTES = 4 * 2**20  # two prompts of 64 KiB, every character escaped three times as JSON


@dataclass(frozen=True)
class Generation:
    """One request that passes through the models.

    Attributes:
        id: identifies its marks in the run directory.
        deadline: time at which the unary endpoint stops working on it, on the steady clock; None for never.
    """

    settings: Settings
    id: str
    deadline: float | None = None

    @classmethod
    def of(cls, settings: Settings, deadline: float | None = None) -> "Generation":
        """Begin a generation with a new id."""
        return cls(settings, secrets.token_hex(16), deadline)


class SettingsSigner:
    """Signs the output of `prepare`, and checks it in each later step. Only this server's models know `key`."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, generation: Generation) -> str:
        """Return the tensor `settings`: a JSON object with id, deadline, settings and their HMAC-SHA256 signature."""
        signed = json.dumps(
            {"id": generation.id, "deadline": generation.deadline, "settings": generation.settings.to_json()}
        )
        return json.dumps({"signed": signed, "signature": self._signature(signed)})

    def read(self, text: bytes) -> Generation:
        """Read what `sign` wrote. Raises InvalidField for anything else, before any of it is used."""
        if len(text) > LONGEST_BYTES:
            raise _unsigned_error(f"{len(text)} bytes")
        try:
            envelope = json.loads(text)
            signed, signature = (str(envelope[name]) for name in ("signed", "signature"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _unsigned_error("a text without a signature") from None
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise _unsigned_error("a signature that is not this server's")
        content = json.loads(signed)
        return Generation(Settings.from_json(content["settings"]), content["id"], content["deadline"])

    def _signature(self, signed: str) -> str:
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()


def check_shape(name: str, shape: Sequence[int], *expected: tuple[int, ...]) -> None:
    """Check that a tensor's shape belongs to the signed settings. Raises InvalidField."""
    if tuple(shape) not in expected:
        accepted = " or ".join(str(list(one)) for one in expected)
        raise InvalidField(name, f"shape {list(shape)}", f"shape {accepted}, which the signed settings imply")


def _unsigned_error(came: str) -> InvalidField:
    return InvalidField(
        "settings", came, "what the model prepare answered in this run of the server; call text_to_video instead"
    )
