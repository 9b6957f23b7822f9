"""Calibration: what is known before the videos is checked before them."""

import sys
from pathlib import Path

import pytest

from export.__main__ import main
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.graphs.precision import PrecisionError
from export.quantisation import calibrate as module
from export.quantisation.calibrate import CalibrationSettings, calibrate


def no_pipeline(*arguments: object, **options: object) -> None:
    pytest.fail("the pipeline is loaded already")


def test_a_checkpoint_that_cannot_be_hashed_fails_before_the_videos(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Checkpoint, component: str) -> None:
        raise CheckpointError(f"{component} cannot be hashed")

    monkeypatch.setattr(Checkpoint, "hash_of", refuse)
    monkeypatch.setattr(module, "_pipeline", no_pipeline)
    with pytest.raises(CheckpointError, match="transformer cannot be hashed"):
        calibrate(Checkpoint.open(checkpoint), CalibrationSettings(("a red ball",), num_inference_steps=2))


def test_modelopt_is_looked_for_before_the_videos(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    monkeypatch.setattr(module, "_pipeline", no_pipeline)
    with pytest.raises(PrecisionError, match="calibration needs NVIDIA's ModelOpt: .* Run `make setup-dev`"):
        calibrate(Checkpoint.open(checkpoint), CalibrationSettings(("a red ball",), num_inference_steps=2))


@pytest.mark.parametrize(
    ("target", "message"),
    [("folder", "folder is a folder, accepted: a file to write"), ("file/ranges.json", "Not a directory|File exists")],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_videos(
    target: str,
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "_pipeline", no_pipeline)
    assert main(["calibrate", "--checkpoint", str(checkpoint), "--fp8-ranges", str(tmp_path / target)]) == 1
    told = capsys.readouterr().err
    assert any(text in told for text in message.split("|"))


def test_the_videos_have_the_flow_shift_of_the_server(checkpoint: Path) -> None:
    """The scheduler's file has another one."""
    opened = Checkpoint.open(checkpoint)
    served = opened.defaults["flow_shift"]["value"]
    assert module._pipeline(opened, flow_shift=served).scheduler.config.flow_shift == served != 3.0


def test_an_expert_without_a_step_is_told_before_the_videos(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_watch", no_pipeline)
    with pytest.raises(PrecisionError, match="--steps 2: transformer_2 would have no step at flow shift 12. Ask for"):
        calibrate(Checkpoint.open(checkpoint), CalibrationSettings(("a red ball",), num_inference_steps=2))
