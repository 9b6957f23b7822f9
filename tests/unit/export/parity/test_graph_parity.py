"""NaN anywhere in a comparison is a difference: `max` would drop it behind the first value."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from export.checkpoint.folder import Checkpoint
from export.parity import graph_parity
from export.parity.graph_parity import ParityError, largest_error, parity_of

GRAPH = "text_encoder"
GOOD, BAD = np.ones(3, np.float32), np.array([1.0, np.nan, 1.0], np.float32)


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint without files; no graph is loaded for it."""
    monkeypatch.setattr(graph_parity, "OnnxRuntimeEngine", lambda path: path)
    return cast(Checkpoint, SimpleNamespace(facts=None, module=lambda component: None))


@pytest.mark.parametrize("place", range(3))
def test_a_graph_that_gives_nan_in_any_case_is_refused(
    place: int, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    actual = [BAD if index == place else GOOD for index in range(3)]

    def cases(*_: Any) -> list[Any]:
        return [(f"case {index}", array, GOOD) for index, array in enumerate(actual)]

    monkeypatch.setitem(graph_parity._CASES, GRAPH, cases)
    with pytest.raises(ParityError, match=f"text_encoder: relative error nan at case {place}, accepted up to 1e-04"):
        parity_of(GRAPH, checkpoint, tmp_path)


def test_the_largest_error_is_nan_if_any_is() -> None:
    assert largest_error([0.0, 2.0, 1.0]) == 2.0
    assert all(math.isnan(largest_error(errors)) for errors in ([math.nan, 1.0], [1.0, math.nan], [0.0, math.nan, 2.0]))
