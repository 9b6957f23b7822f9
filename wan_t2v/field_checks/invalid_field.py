"""The error of a field that cannot be served."""

from collections.abc import Sequence
from difflib import get_close_matches

MAX_QUOTED = 200  # characters of what came, in an error
LONGEST_NAME = 64  # of a field, parameter or choice; what is longer is compared with nothing


class InvalidField(ValueError):
    """A field that cannot be served: the message names it, what came, what is accepted and a value that works."""

    def __init__(self, field: str, came: object, accepted: str, *, nearest: object = None) -> None:
        hint = "" if nearest is None else f" Nearest: {nearest}."
        super().__init__(f"{_quoted(field)}: got {_quoted(str(came))}; accepted: {accepted}.{hint}")
        self.field = field
        self.nearest = nearest


def _quoted(text: str) -> str:
    """What the caller sent, at most MAX_QUOTED characters of it."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}... ({len(text)} characters)"


def closest_name(name: str, known: Sequence[str]) -> str | None:
    """The most alike of the known names; comparing takes long where the name is long."""
    close = get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
    return close[0] if close else None
