"""The command: a snapshot of other settings is refused before the teacher runs."""

from pathlib import Path

import pytest
import torch

from export.checkpoint.folder import Checkpoint
from training.distill import __main__ as module


def test_other_settings_are_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "load_packed_modules", lambda folder: None)
    monkeypatch.setattr(module, "trajectories_of", lambda *_, **__: pytest.fail("the teacher runs already"))
    folder = tmp_path / module._identity(Checkpoint.open(checkpoint)) / "lora"
    folder.mkdir(parents=True)
    made_with = {"size": "64x64x17", "seed": 0, "teacher steps": 20, "trajectories": 2048}
    torch.save({"settings": made_with}, folder / "snapshot.pt")
    for option, value, told in (
        ("--seed", "1", "seed was 0 and is 1"),
        ("--teacher-steps", "40", "teacher steps was 20 and is 40"),
        ("--trajectories", "4096", "trajectories was 2048 and is 4096"),
    ):
        assert module.main(["--checkpoint", str(checkpoint), "--work", str(tmp_path), option, value]) == 1
        message = capsys.readouterr().err
        assert message.startswith("error: ") and told in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--teacher-steps", "5", "--teacher-steps 5: 5 steps of the teacher are too few to pass through each waypoint"),
        ("--teacher-steps", "0", "--teacher-steps 0: 0 steps of the teacher are too few"),
        ("--trajectories", "32", "--trajectories 32: accepted: more than 32, which are kept back for validation"),
        ("--checkpoint", "nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_anything_is_loaded(
    option: str,
    value: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "load_packed_modules", lambda folder: pytest.fail("the checkpoint is loaded already"))
    assert module.main(["--work", str(tmp_path), option, value]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and told in message and message.count("\n") == 1
