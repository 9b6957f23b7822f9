"""A range's words, and the advice that follows a refusal. Each range's own edges are tested with the request's."""

import pytest

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.ranges import NumberRange


@pytest.mark.parametrize(
    ("accepted", "words"),
    [
        (NumberRange(0), "an integer, 0 or more"),
        (NumberRange(1, 120), "an integer from 1 to 120"),
        (NumberRange(0.0, 1.0), "a number from 0 to 1"),
        (NumberRange(16, 256, step=16, unit="pixels"), "a multiple of 16 from 16 to 256 pixels"),
        (NumberRange(1, 81, step=4, unit="frames"), "4k+1 (1, 5, ...) up to 81"),
    ],
)
def test_a_range_says_what_it_accepts(accepted: NumberRange, words: str) -> None:
    assert str(accepted) == words


@pytest.mark.parametrize(("value", "nearest"), [(10**400, 100), (-(10**400), 0)])
@pytest.mark.parametrize("accepted", [NumberRange(0.0, 100.0), NumberRange(0, 100)])
def test_an_integer_that_no_float_can_hold_is_refused_like_any_other(
    accepted: NumberRange, value: int, nearest: int
) -> None:
    """In `serving_defaults.json` it was an OverflowError."""
    with pytest.raises(InvalidField, match=f"fps: got {'-' if value < 0 else ''}1000.*accepted: a") as refusal:
        accepted.check("fps", value)
    assert refusal.value.nearest == nearest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_range_accepts_what_is_not_finite(value: float) -> None:
    with pytest.raises(InvalidField) as refusal:
        NumberRange(0.0).check("step_cache", value)
    assert refusal.value.nearest is None


@pytest.mark.parametrize(("value", "nearest"), [(79, 81), (78, 77), (-3, 1), (200, 81)])
def test_the_nearest_value_is_one_that_is_accepted(value: int, nearest: int) -> None:
    frames = NumberRange(1, 81, step=4)
    with pytest.raises(InvalidField) as refusal:
        frames.check("num_frames", value)
    assert refusal.value.nearest == nearest
    frames.check("num_frames", nearest)
