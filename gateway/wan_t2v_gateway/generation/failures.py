"""A job's failure as callers see it."""

import re
from typing import Any


def failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The `error` of a video."""
    return {"code": code, "message": message[:2000], **({"param": param} if param else {})}


def refused_field(message: str) -> str | None:
    """The field that a refusal of the server names: it begins `field: got ...`."""
    named = re.match(r"([a-z_0-9]+): got ", message)
    return named[1] if named else None
