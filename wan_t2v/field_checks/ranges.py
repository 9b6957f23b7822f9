"""Number ranges of fields: the check, the wording of a range in an error, and the nearest accepted value."""

import math
import struct
from dataclasses import dataclass

from wan_t2v.field_checks.invalid_field import InvalidField

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 100.0  # Wan2.2's are 4 and 3; at 1e30 a clip is grey, at 1e38 its velocities overflow
MIN_SHIFT = 0.01  # at 1e-44 UniPC's noise levels coincide in single precision, and its steps give NaN


@dataclass(frozen=True)
class NumberRange:
    """Numbers that a field accepts.

    Attributes:
        minimum, maximum: inclusive bounds, of a number in single precision, as requests have it. None for no maximum.
        step: distance between accepted integers, counted from `minimum`.
        unit: unit of the number, for people to read; empty for a plain number.
    """

    minimum: int | float
    maximum: int | float | None = None
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
        return f"{'an integer' if self.is_integer else 'a number'} from {least} to {most}"

    def _accepts(self, value: int | float) -> bool:
        if not _is_finite(value) or value < _single(self.minimum):
            return False
        in_step = self.step == 1 or (value - self.minimum) % self.step == 0
        return in_step and (self.maximum is None or value <= _single(self.maximum))

    def _nearest(self, value: int | float) -> int | float | None:
        """Return the accepted value nearest to `value`; None if there is none."""
        if not _is_finite(value):
            return None
        if value <= self.minimum:
            return self.minimum
        if self.maximum is not None and value > self.maximum:
            return self.maximum
        offset = self.minimum % self.step
        return round((value - offset) / self.step) * self.step + offset


def _is_finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # isfinite() raises for an integer that no float can hold


def _single(bound: int | float) -> int | float:
    """Round a number's bound to single precision, in which 0.01 arrives as 0.00999999978."""
    return bound if isinstance(bound, int) else float(struct.unpack("f", struct.pack("f", bound))[0])


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


# Ranges that are the same in every deployment; `sizes.py` makes those of a clip.
RANGES = {
    "num_inference_steps": NumberRange(1, MAX_STEPS),
    "guidance_scale": NumberRange(0.0, MAX_GUIDANCE),
    "guidance_scale_2": NumberRange(0.0, MAX_GUIDANCE),
    "flow_shift": NumberRange(MIN_SHIFT, 100.0),
    "step_cache": NumberRange(0.0, 1.0),
    "guidance_skip": NumberRange(0.0, 1.0),
    "seed": NumberRange(0, MAX_SEED),
    "fps": NumberRange(1, 120, unit="frames per second"),
    "preview_every": NumberRange(0, unit="steps"),
}
