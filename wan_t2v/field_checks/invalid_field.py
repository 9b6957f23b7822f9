"""The error of a field that cannot be served."""

from collections.abc import Sequence
from difflib import get_close_matches

MAX_QUOTED = 200  # characters of a received value that an error repeats
LONGEST_NAME = 64  # characters of a field, parameter or choice; for longer names no similar one is searched


class InvalidField(ValueError):
    """A field that cannot be served. The message has its name, the received value, what is accepted and a nearby value.

    `nearest` is None if there is no nearby value.
    """

    def __init__(self, field: str, came: object, accepted: str, *, nearest: object = None) -> None:
        hint = "" if nearest is None else f" Nearest: {nearest}."
        super().__init__(f"{_quoted(field)}: got {_quoted(str(came))}; accepted: {accepted}.{hint}")
        self.field = field
        self.nearest = nearest


def _quoted(text: str) -> str:
    """Shorten a text of the caller's to MAX_QUOTED characters."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}... ({len(text)} characters)"


def closest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name most similar to `name`, if any. Long names are skipped: comparing them is slow."""
    close = get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
    return close[0] if close else None
