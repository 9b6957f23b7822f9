"""`python -m export plans`: from which graphs plans are built, and what is refused before the graphs are exported."""

import json
import shutil
from pathlib import Path

import pytest

from export.__main__ import main, parser
from export.to_plan.builder import BuildError
from tests.conftest import ROOT
from tests.unit.export.to_plan.plan_builds import Recorded
from wan_t2v.contract import GRAPHS

MINI = ["--checkpoint", str(ROOT / "training/wan-mini")]


@pytest.fixture
def half(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `make export PRECISION=fp16` leaves graphs of wan-mini, from a folder without any others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: None)
    return Path(shutil.copytree(exported, "build/training-wan-mini-fp16", ignore=shutil.ignore_patterns("plans")))


def change_manifests(folder: Path, **entries: str) -> None:
    for graph in GRAPHS:
        path = folder / graph / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def build(*arguments: str) -> None:
    options = parser().parse_args(["plans", *MINI, *arguments])
    from export.__main__ import _folder
    from export.commands.plans import build_and_install_plans

    build_and_install_plans(options, _folder(options), builder=Recorded())


def test_plans_are_built_from_the_graphs_in_the_precision_that_is_named(half: Path) -> None:
    with pytest.raises(BuildError, match="text_encoder is in fp32, not in bf16. Name the folder of another export"):
        build("--folder", str(half), "--text-encoder-precision", "bf16")
    with pytest.raises(BuildError, match="high_noise_expert is in fp32, not in fp16"):
        build("--precision", "fp16")
    manifest = half / "high_noise_expert/manifest.json"
    for graph in ("high_noise_expert", "low_noise_expert"):
        manifest = half / graph / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "precision": "fp16"}))
    build("--precision", "fp16")
    assert json.loads((half / "plans/low_noise_expert/1/plan.json").read_text())["precision"] == "fp16"


def test_graphs_of_another_checkpoint_are_refused(half: Path) -> None:
    change_manifests(half, checkpoint_sha256="another")
    with pytest.raises(
        BuildError, match="text_encoder was not exported from .*wan-mini as it is now. Run `make export"
    ):
        build("--folder", str(half))
    assert not (half / "plans").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "100x128x17"], "multiples of 16 pixels"),
        (["--expert-batch", "3"], "expert batch 3, accepted: 1, 2"),
        (["--workspace-gib", "0"], "workspace of 0.0 GiB, accepted: a number above 0"),
        (["--precision", "int8"], "TensorRT's is `int8-bf16`. Export with another PRECISION"),
        (["--precision", "fp8-attention", "--sizes", "128x128x17, 128x192x17"], "for one size only"),
        (["--compute-capability", "current"], "no GPU is seen here"),
    ],
)
def test_what_cannot_be_built_is_refused_before_there_are_graphs(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: None)
    assert main(["plans", "--check-only", *MINI, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_check_of_what_can_be_built_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plans", "--check-only", *MINI, "--sizes", "128x128x17, 128x192x17", "--precision", "fp16"]) == 0
    assert not list(tmp_path.iterdir())
