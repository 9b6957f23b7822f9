"""Shapes of a graph's inputs as the graph declares them: numbers, names, and multiples of names.

Without this check an input of the wrong shape fails deep inside the graph, with an error that names an operator.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wan_t2v.field_checks.invalid_field import InvalidField

# `latent_height`, `4*latent_height` or `4*(latent_height)`, as exporters write them
_MULTIPLE = re.compile(r"(?:(?P<factor>\d+)\*)?(?P<open>\()?(?P<name>[A-Za-z_]\w*)(?(open)\))")


@dataclass(frozen=True)
class Dim:
    """One dim: `factor` times the size that `name` has in a call, or `factor` alone without a name."""

    factor: int
    name: str | None = None

    def __str__(self) -> str:
        if self.name is None:
            return str(self.factor)
        return self.name if self.factor == 1 else f"{self.factor}*{self.name}"

    @classmethod
    def parse(cls, declared: int | str | None) -> "Dim | None":
        """Parse a dim as ONNX declares it; None if it declares nothing that can be checked."""
        if isinstance(declared, int):
            return cls(declared)
        found = _MULTIPLE.fullmatch((declared or "").replace(" ", ""))
        return None if found is None else cls(int(found["factor"] or 1), found["name"])


class GraphShapes:
    """The declared shapes of a graph's inputs, by input name."""

    def __init__(self, declared: Mapping[str, Sequence[int | str | None]]) -> None:
        self._dims = {name: [Dim.parse(dim) for dim in dims] for name, dims in declared.items()}

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check shapes, by input name, against the graph and each other. Raises InvalidField."""
        sizes: dict[str, int] = {}
        for tensor in sorted(shapes, key=self._named_in_multiples):  # bind a name's size before its multiples
            dims = self._dims.get(tensor)
            if dims is None:
                continue
            if len(dims) != len(shapes[tensor]):
                raise InvalidField(tensor, f"shape {list(shapes[tensor])}", f"{len(dims)} dims, as the graph has")
            for dim, size in zip(dims, shapes[tensor], strict=True):
                if dim is not None and not _fits(dim, size, sizes):
                    raise InvalidField(tensor, f"shape {list(shapes[tensor])}", self._accepted(tensor, sizes))

    def _named_in_multiples(self, tensor: str) -> bool:
        return any(dim is not None and dim.name is not None and dim.factor > 1 for dim in self._dims.get(tensor, ()))

    def _accepted(self, tensor: str, sizes: Mapping[str, int]) -> str:
        known = ", ".join(f"{name}={size}" for name, size in sizes.items())
        shape = " x ".join("any" if dim is None else str(dim) for dim in self._dims[tensor])
        return f"{shape}, as the graph has it{f' (here {known})' if known else ''}"


def _fits(dim: Dim, size: int, sizes: dict[str, int]) -> bool:
    """Whether `size` fits the dim. The first size seen for a name is stored in `sizes` for this call."""
    if dim.name is None:
        return size == dim.factor
    return size == dim.factor * sizes.setdefault(dim.name, size // dim.factor)
