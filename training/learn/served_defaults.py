"""How serving generates by default: training covers what serving visits."""

from export.checkpoint.mini import SERVING_DEFAULTS


def served_default(field: str) -> float:
    """The default of a number among the request's fields."""
    value, _source = SERVING_DEFAULTS[field]
    assert isinstance(value, int | float), f"{field} is no number: {value!r}"
    return float(value)
