"""Number ranges of fields: the check, the wording of a range in an error, and the nearest accepted value."""

import math
from dataclasses import dataclass

from wan_t2v.field_checks.invalid_field import InvalidField

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class NumberRange:
    """Numbers that a field accepts.

    Attributes:
        minimum, maximum: inclusive bounds; with `minimum_excluded` the lower one is exclusive. None for no maximum.
        step: distance between accepted integers, counted from `minimum`.
        unit: unit of the number, for people to read; empty for a plain number.
    """

    minimum: int | float
    maximum: int | float | None = None
    minimum_excluded: bool = False
    step: int = 1
    unit: str = ""

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are accepted."""
        return isinstance(self.minimum, int)

    def check(self, field: str, value: int | float) -> None:
        """Raise InvalidField for a value outside the range."""
        if not self._accepts(value):
            raise InvalidField(field, value, str(self), nearest=self._nearest(value))

    def __str__(self) -> str:
        least, most = (_number(self.minimum), "" if self.maximum is None else _number(self.maximum))
        if self.step > 1 and self.minimum == self.step:
            return f"a multiple of {self.step} from {least} to {most} {self.unit}"
        if self.step > 1:
            return f"{self.step}k+{least} ({least}, {self.minimum + self.step}, ...) up to {most}"
        if not most:
            return f"{'an integer' if self.is_integer else 'a finite number'}, {least} or more"
        if self.minimum_excluded:
            return f"a number above {least}, at most {most}"
        return f"{'an integer' if self.is_integer else 'a number'} from {least} to {most}"

    def _accepts(self, value: int | float) -> bool:
        if not math.isfinite(value) or value < self.minimum or (self.minimum_excluded and value == self.minimum):
            return False
        in_step = self.step == 1 or (value - self.minimum) % self.step == 0
        return in_step and (self.maximum is None or value <= self.maximum)

    def _nearest(self, value: int | float) -> int | float | None:
        """Return the accepted value nearest to `value`; None if there is none."""
        if not math.isfinite(value):
            return None
        if value <= self.minimum:
            return None if self.minimum_excluded else self.minimum
        if self.maximum is not None and value > self.maximum:
            return self.maximum
        offset = self.minimum % self.step
        return round((value - offset) / self.step) * self.step + offset


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


# Ranges that are the same in every deployment; `sizes.py` makes those of a clip.
RANGES = {
    "num_inference_steps": NumberRange(1, MAX_STEPS),
    "guidance_scale": NumberRange(0.0),
    "guidance_scale_2": NumberRange(0.0),
    "flow_shift": NumberRange(0.0, 100.0, minimum_excluded=True),
    "step_cache": NumberRange(0.0, 1.0),
    "guidance_skip": NumberRange(0.0, 1.0),
    "seed": NumberRange(0, MAX_SEED),
    "fps": NumberRange(1, 120, unit="frames per second"),
    "preview_every": NumberRange(0, unit="steps"),
}
