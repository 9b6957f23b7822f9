"""Settings on their way from `prepare` to the later steps, signed with the key of this server's run.

Triton lets every caller call every model. The later steps trust the settings that they get, so they take only those
that `prepare` checked: the signature covers all settings and the generation's id.
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
    """One request on its way through the models.

    Attributes:
        id: tells its marks in the run directory from those of others.
        deadline: when the unary endpoint stops working on it, on the steady clock; None for never.
    """

    settings: Settings
    id: str
    deadline: float | None = None

    @classmethod
    def of(cls, settings: Settings, deadline: float | None = None) -> "Generation":
        """Begin a generation with a new id."""
        return cls(settings, secrets.token_hex(16), deadline)


class SettingsSigner:
    """Signs what `prepare` hands on, and checks it in each later step. `key` is known to this server's models only."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, generation: Generation) -> str:
        """The tensor `settings`: one JSON object with the id, the settings and their signature (HMAC-SHA256)."""
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
    """Refuse a tensor whose shape does not belong to the signed settings. Raises InvalidField."""
    if tuple(shape) not in expected:
        accepted = " or ".join(str(list(one)) for one in expected)
        raise InvalidField(name, f"shape {list(shape)}", f"shape {accepted}, which the signed settings imply")


def _unsigned_error(came: str) -> InvalidField:
    return InvalidField(
        "settings", came, "what the model prepare answered in this run of the server; call text_to_video instead"
    )
