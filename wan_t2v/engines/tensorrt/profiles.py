"""Optimization profiles of a TensorRT plan, and the choice of one per call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


class ShapeError(ValueError):
    """A call whose shapes are outside every profile of a plan; the message lists the profiles."""


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, best and largest shape of one input under one profile."""

    smallest: Shape
    best: Shape
    largest: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether `shape` lies within this range."""
        return len(shape) == len(self.smallest) and all(
            least <= size <= most for least, size, most in zip(self.smallest, shape, self.largest, strict=True)
        )

    def __str__(self) -> str:
        smallest, largest = ("x".join(map(str, shape)) for shape in (self.smallest, self.largest))
        return smallest if smallest == largest else f"{smallest} to {largest}"


@dataclass(frozen=True)
class Profile:
    """One profile: a shape range per input of the plan."""

    index: int
    ranges: Mapping[str, ShapeRange]

    def holds(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every input's shape lies within its range."""
        return all(wanted.holds(shapes[name]) for name, wanted in self.ranges.items())

    def distance(self, shapes: Mapping[str, Shape]) -> int:
        """Sum, over all dims, of the distances to the shapes that the plan was tuned for."""
        pairs = ((shapes[name], wanted.best) for name, wanted in self.ranges.items())
        return sum(abs(size - best) for shape, bests in pairs for size, best in zip(shape, bests, strict=True))

    def __str__(self) -> str:
        return f"profile {self.index}: " + ", ".join(f"{name} {wanted}" for name, wanted in self.ranges.items())


def profile_for(shapes: Mapping[str, Shape], profiles: Sequence[Profile]) -> Profile:
    """Return the profile that accepts these shapes; of several, the one tuned nearest to them. Raises ShapeError."""
    fitting = [profile for profile in profiles if profile.holds(shapes)]
    if not fitting:
        came = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise ShapeError(
            f"no profile of the plan takes {came}; it has {'; '.join(map(str, profiles))}. "
            "Ask for one of these sizes, or build a plan with this one."
        )
    return min(fitting, key=lambda profile: profile.distance(shapes))
