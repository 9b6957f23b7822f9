"""Serving's defaults, from which the training derives its noise levels and sampling settings."""

from export.checkpoint.mini import SERVING_DEFAULTS


def served_default(field: str) -> float:
    """Return the default of a numeric request field."""
    value, _source = SERVING_DEFAULTS[field]
    assert isinstance(value, int | float), f"{field} is no number: {value!r}"
    return float(value)
