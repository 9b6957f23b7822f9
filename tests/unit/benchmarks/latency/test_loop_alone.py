"""The loop alone: all three walks are timed, and solvers that disagree end it."""

from pathlib import Path

import pytest
import torch

from benchmarks.latency import loop_alone
from export.checkpoint.folder import Checkpoint


def test_each_walk_is_timed(checkpoint: Path) -> None:
    found = loop_alone.measure(Checkpoint.open(checkpoint), rounds=1)
    assert found.keys() == {"loop_ms", "solver_ms", "diffusers_solver_ms", "solver_ratio", "rounds"}
    assert min(found.values()) > 0


def test_solvers_that_disagree_are_not_timed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_alone._Walks, "ours", lambda _: torch.zeros(1))
    with pytest.raises(SystemExit, match="the two solvers end with different latents"):
        loop_alone.measure(Checkpoint.open(checkpoint), rounds=1)
