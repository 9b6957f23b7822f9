"""A block as a TensorRT plan: built for real, run by a stand-in, since a CPU cannot run a plan."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import tensorrt_part
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Row
from wan_t2v.engines.tensorrt.tensorrt_plan import PlanError


def test_the_block_is_built_by_the_real_tensorrt_and_held_to_torch(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built for real; run by a stand-in that checks what it is given, since a CPU cannot run a plan."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))
    loaded: list[str] = []

    def load(path: Path, device: str, module: Any) -> Any:
        assert path.stat().st_size > 0 and device == "cpu"
        loaded.append(module.__name__)
        return lambda inputs: {"velocity": inputs["hidden_states"].clone()}

    (row,) = tensorrt_part.tensorrt(scale, load=load)
    assert "error" not in row and row["seconds"] > 0 and row["torch_seconds"] > 0 and row["plan_mb"] > 0
    assert row["relative_difference"] > 0.1, "the stand-in computes something else, which must show"
    assert loaded == ["tensorrt_rtx"]


def test_a_target_that_is_refused_is_followed_by_the_other(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def measured(*arguments: Any, target: tuple[str, ...], **more: Any) -> Row:
        tried.append(target)
        if target:
            raise PlanError("Hopper is not among the GPUs")
        return {"seconds": 1.0}

    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))
    monkeypatch.setattr(tensorrt_part, "_on_gpu", lambda scale: True)
    monkeypatch.setattr(tensorrt_part, "_module", lambda name: None)
    monkeypatch.setattr(tensorrt_part, "_export", lambda scale, folder: None)
    monkeypatch.setattr(tensorrt_part, "_measure", measured)
    refused, built = tensorrt_part.tensorrt(scale)
    assert tried == [("current",), ()] and "Hopper" in refused["error"] and built["seconds"] == 1


def test_a_tensorrt_that_is_not_installed_is_skipped_with_its_reason(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_t2v.engines.tensorrt.tensorrt_module.importlib.import_module", _not_installed)
    for row in tensorrt_part.tensorrt(scale):
        assert "pip install" in row["skipped"]


def _not_installed(name: str) -> None:
    raise ImportError(f"No module named {name!r}")


@pytest.mark.nightly  # the same build as above
def test_on_a_cpu_a_built_plan_is_said_to_be_built_and_not_run(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))

    def refuses(path: Path, device: str, module: Any) -> Any:
        raise PlanError("no driver")

    (row,) = tensorrt_part.tensorrt(scale, load=refuses)
    assert re.fullmatch(r"built in \d+ s, and a CPU cannot run a plan", row["skipped"])
