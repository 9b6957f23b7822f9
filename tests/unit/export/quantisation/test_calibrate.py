"""Calibration: what is known before the videos is checked before them."""

from pathlib import Path

import pytest

from export.checkpoint.folder import Checkpoint, CheckpointError
from export.quantisation import calibrate as module
from export.quantisation.calibrate import CalibrationSettings, calibrate


def test_a_checkpoint_that_cannot_be_hashed_fails_before_the_videos(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Checkpoint, component: str) -> None:
        raise CheckpointError(f"{component} cannot be hashed")

    monkeypatch.setattr(Checkpoint, "hash_of", refuse)
    monkeypatch.setattr(module, "_pipeline", lambda _: pytest.fail("the pipeline is loaded already"))
    with pytest.raises(CheckpointError, match="transformer cannot be hashed"):
        calibrate(Checkpoint.open(checkpoint), CalibrationSettings(("a red ball",), num_inference_steps=2))
