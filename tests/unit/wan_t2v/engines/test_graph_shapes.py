"""Shapes that do not fit a graph are refused by the input's name, before anything is computed."""

import pytest

from wan_t2v.engines.graph_shapes import GraphShapes
from wan_t2v.field_checks.invalid_field import InvalidField

DECLARED = {
    "large": ["batch", 16, 2, "8*height", "8 * width"],
    "latents": ["batch", 16, "frames", "height", "width"],
    "free": [None, "ceil(height/2)"],
}
RIGHT = {"large": (1, 16, 2, 16, 24), "latents": (1, 16, 5, 2, 3), "free": (7, 9)}


@pytest.mark.parametrize("only", [(), ("latents",), ("large",), ("free",)])
def test_what_fits_passes(only: tuple[str, ...]) -> None:
    GraphShapes(DECLARED).check({name: RIGHT[name] for name in only or RIGHT})
    GraphShapes(DECLARED).check({**RIGHT, "unknown to the graph": (3,)})


@pytest.mark.parametrize(
    ("changed", "tensor", "accepted"),
    [
        ({"latents": (1, 4, 5, 2, 3)}, "latents", "batch x 16 x frames x height x width, as the graph has it"),
        ({"large": (1, 16, 3, 16, 24)}, "large", r"batch x 16 x 2 x 8\*height x 8\*width"),
        ({"large": (1, 16, 2, 24, 24)}, "large", "here batch=1, frames=5, height=2, width=3"),
        ({"large": (1, 16, 2, 16, 25)}, "large", "width=3"),
        ({"large": (2, 16, 2, 16, 24)}, "large", "batch=1"),
        ({"latents": (1, 16, 5, 2)}, "latents", "5 dims"),
        ({"large": ()}, "large", "5 dims"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict, tensor: str, accepted: str) -> None:
    with pytest.raises(InvalidField, match=accepted) as refused:
        GraphShapes(DECLARED).check({**RIGHT, **changed})
    assert refused.value.field == tensor


def test_a_multiple_alone_must_divide() -> None:
    with pytest.raises(InvalidField, match="large: got shape"):
        GraphShapes(DECLARED).check({"large": (1, 16, 2, 17, 24)})
