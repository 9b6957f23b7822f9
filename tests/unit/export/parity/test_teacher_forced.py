"""Experts along one generation: what is recorded, what an error is, and that every precision of a CPU keeps its limit."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from export.__main__ import main
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.graphs.precision import SUPPORTED, io_precision, needs_ranges
from export.graphs.quantised_experts import quantise
from export.graphs.registry import GRAPHS
from export.parity.report import limit_of, report, worst_median
from export.parity.teacher_forced import (
    ReferencePass,
    ReferenceSettings,
    errors_along,
    graph_experts,
    reference_run,
    torch_experts,
)
from export.quantisation.calibrate import CalibrationSettings, calibrate
from export.to_onnx.exporter import onnx_from_module
from wan_t2v.contract import EXPERTS

STEPS = 8


@pytest.fixture(scope="module")
def calls(checkpoint: Path) -> list[ReferencePass]:
    return reference_run(
        Checkpoint.open(checkpoint), ReferenceSettings("a green star slides up on a black background", STEPS)
    )


@pytest.fixture(scope="module")
def floor(checkpoint: Path, calls: list[ReferencePass]) -> float:
    """What BF16 costs in torch."""
    return median(calls, errors_along(calls, torch_experts(Checkpoint.open(checkpoint), "bf16")))


def median(calls: list[ReferencePass], errors: list[float]) -> float:
    return worst_median(report(calls, {"it": errors})["candidates"]["it"])


def test_every_pass_of_the_generation_is_followed(calls: list[ReferencePass]) -> None:
    assert [call.step for call in calls] == sorted(2 * list(range(1, STEPS + 1))), "two guidance passes a step"
    assert {call.expert for call in calls} == set(EXPERTS)
    assert all((call.timestep >= 875) == (call.expert == "high_noise_expert") for call in calls)
    first, second = (call.text for call in calls[:2])
    assert not torch.equal(first, second)
    assert not torch.equal(calls[0].latents, calls[-1].latents)


def test_the_reference_has_no_error_and_bf16_some(calls: list[ReferencePass], checkpoint: Path, floor: float) -> None:
    assert max(errors_along(calls, torch_experts(Checkpoint.open(checkpoint), "fp32"))) < 1e-6
    assert 1e-4 < floor < 5e-2


def test_exchanged_experts_are_far_beyond_every_limit(calls: list[ReferencePass], checkpoint: Path) -> None:
    high, low = (torch_experts(Checkpoint.open(checkpoint), "fp32")[name] for name in EXPERTS)
    wrong = errors_along(calls, dict(zip(EXPERTS, (low, high), strict=True)))
    assert median(calls, wrong) > 0.1
    assert all(limit_of(precision, 0.01).relative <= 0.1 for precision in SUPPORTED["experts"])


@pytest.fixture(scope="module")
def ranges(checkpoint: Path) -> Mapping[str, Mapping[str, float]]:
    prompts = ("a green star slides up on a black background", "a red circle grows in place")
    return calibrate(Checkpoint.open(checkpoint), CalibrationSettings(prompts, num_inference_steps=6)).ranges


QUICK = ("fp32",)
ON_A_CPU = [
    pytest.param(precision, marks=() if precision in QUICK else pytest.mark.nightly)
    for precision in SUPPORTED["experts"]
    if io_precision(precision) != "bf16"
]


@pytest.mark.parametrize("precision", ON_A_CPU)
def test_a_graph_in_every_precision_that_a_cpu_runs_keeps_its_limit(
    precision: str,
    calls: list[ReferencePass],
    checkpoint: Path,
    exported: Path,
    tmp_path: Path,
    floor: float,
    request: pytest.FixtureRequest,
) -> None:
    folder = exported
    if precision != "fp32":
        folder = tmp_path
        ranges = request.getfixturevalue("ranges") if needs_ranges(precision) else {}
        for name in EXPERTS:
            module: Any = Checkpoint.open(checkpoint).module(GRAPHS[name].component, precision)
            if needs_ranges(precision):
                quantise(module, precision, ranges[GRAPHS[name].component])
            (folder / name).mkdir()
            onnx_from_module(module, name, Checkpoint.open(checkpoint).facts, folder / name / "model.onnx")
    found = median(calls, errors_along(calls, graph_experts(folder, precision)))
    assert found <= limit_of(precision, floor).relative
    assert found > {"fp32": 0.0, "fp16": 1e-5}.get(precision, 3e-3), "so little cannot be this precision"


def test_a_broken_pass_shows_in_its_step_and_its_band(calls: list[ReferencePass]) -> None:
    errors = [0.001] * len(calls)
    errors[-1] = math.nan
    found = report(calls, {"it": errors})["candidates"]["it"]
    assert math.isnan(found["steps"][-1]["relative"])
    assert found["steps"][0]["relative"] == 0.001
    assert math.isnan(worst_median(found))
    bands = [band for band in found["by_band"].values() if band]
    assert sum(band["passes"] for band in bands) == len(calls)


def test_the_command_writes_figures_and_a_picture_and_refuses_what_is_beyond(
    checkpoint: Path,
    exported: Path,
    tmp_path: Path,
    calls: list[ReferencePass],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "graphs"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    asked = ["parity", "--checkpoint", str(checkpoint), "--folder", str(folder), "--steps", "4"]
    assert main(asked) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["candidate"] for line in lines if "candidate" in line] == ["torch bf16", "graph fp32"]
    written = json.loads((folder / "trajectory.json").read_text())["candidates"]
    assert all(len(candidate["steps"]) == 4 for candidate in written.values())
    assert Image.open(folder / "trajectory.png").size > (600, 300)
    strict = dataclasses.replace(limit_of("fp32", 0.0), relative=1e-12)
    monkeypatch.setattr("export.parity.report.limit_of", lambda *_: strict)
    monkeypatch.setattr("export.parity.teacher_forced.reference_run", lambda *_: calls)
    monkeypatch.setattr("export.parity.graph_parity.parity_of", lambda *_, **__: [])
    assert main(asked) == 1
    assert "graph fp32: median error" in capsys.readouterr().err


def test_so_few_steps_that_an_expert_has_none_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.parity.teacher_forced.denoise", lambda *_, **__: pytest.fail("nothing may run"))
    with pytest.raises(CheckpointError, match="--steps 2: low_noise_expert would have no step. Ask for more steps."):
        reference_run(Checkpoint.open(checkpoint), ReferenceSettings("a green star", 2))


def test_a_folder_without_graphs_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", "--checkpoint", str(checkpoint), "--folder", str(tmp_path)]) == 1
    assert "has no exported graphs. Run `make export`" in capsys.readouterr().err
    assert main(["parity", "--checkpoint", str(checkpoint), "--steps", "1"]) == 1
    assert "at least 2 steps" in capsys.readouterr().err
