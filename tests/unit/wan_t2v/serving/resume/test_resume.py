"""Where generations under way are kept: the model's parameter, else the environment, else nowhere."""

import errno
import shutil
from pathlib import Path

import pytest

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.resume.idempotency import RequestKey
from wan_t2v.serving.resume.resume import VARIABLE, ResumableGenerations

KEYED = RequestKey("order-1", "")


def kept(tmp_path: Path, **values: str) -> set[str]:
    """The folders that a request with a key makes."""
    resumable = ResumableGenerations.of_model(ModelParameters("denoiser", tmp_path, values))
    with resumable.lock(KEYED):
        return {path.name for path in tmp_path.iterdir()}


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "of environment"))
    assert kept(tmp_path) == {"of environment"}


def test_the_parameter_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "of environment"))
    assert kept(tmp_path, checkpoint_folder=str(tmp_path / "of model")) == {"of model"}


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_folder_a_key_is_refused(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InvalidField, match="keeps no checkpoints"):
        kept(tmp_path)


@pytest.mark.parametrize("away", ["removed", "a file"])
def test_a_folder_that_cannot_be_written_costs_the_checkpoint_and_not_the_video(
    away: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "kept"
    values = {"checkpoint_folder": str(folder)}
    resumable = ResumableGenerations.of_model(ModelParameters("denoiser", tmp_path, values))
    shutil.rmtree(folder)
    if away == "a file":
        folder.touch()
    with resumable.lock(KEYED) as checkpoint:
        assert checkpoint is None
    assert "a request with an idempotency key keeps no checkpoint" in caplog.text


def test_a_lock_file_that_cannot_be_removed_does_not_cost_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumable = ResumableGenerations.of_model(
        ModelParameters("denoiser", tmp_path, {"checkpoint_folder": str(tmp_path)})
    )
    with monkeypatch.context() as read_only, resumable.lock(KEYED) as checkpoint:
        assert checkpoint is not None
        read_only.setattr(Path, "unlink", _refuse)
    with resumable.lock(KEYED) as again:
        assert again is not None, "the file that stayed is locked by nobody"


def _refuse(path: Path, missing_ok: bool = False) -> None:
    raise OSError(errno.EROFS, "Read-only file system", str(path))
