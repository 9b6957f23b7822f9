"""Serving's defaults: training covers what serving visits."""

from export.checkpoint.mini import SERVING_DEFAULTS


def served_default(field: str) -> float:
    """Look up the default of a numeric request field."""
    value, _source = SERVING_DEFAULTS[field]
    assert isinstance(value, int | float), f"{field} is no number: {value!r}"
    return float(value)
