"""`python -m export onnx` where it must refuse: early, clearly, and with nothing half-written."""

import errno
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from export import disk_space
from export.__main__ import main
from export.commands.onnx import disk_error
from export.to_onnx.a14b_dummy import write_dummy


@pytest.fixture(scope="module")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dummy(tmp_path_factory.mktemp("a14b") / "dummy")


def refused(asked: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The command's one line; the folder must not have been made."""
    assert main(["onnx", "--folder", str(folder), *asked]) == 1
    assert not folder.exists() or not list(folder.rglob("*"))
    return capsys.readouterr().err


def test_what_the_embedded_server_could_not_serve_is_refused_where_it_is_to_be_served(
    a14b: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["--checkpoint", str(a14b), "--must-install"], tmp_path / "a", capsys)
    assert "cannot be served here: the weights stay in the checkpoint" in said
    asked = ["--checkpoint", str(checkpoint), "--must-install", "--precision", "fp16"]
    assert "cannot be served here: the embedded server runs graphs with FP32 inputs" in refused(
        asked, tmp_path / "b", capsys
    )


def test_large_weights_do_not_go_inside(a14b: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["--checkpoint", str(a14b), "--weights", "inside"], tmp_path / "export", capsys)
    assert "text_encoder holds 11.4 GB of weights" in said and "`--weights external`" in said


def test_a_full_disk_is_told_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond 100 bytes, which the kernel answers as it answers a full disk: the write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        said = refused(["--checkpoint", str(checkpoint)], tmp_path / "export", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in said and "Nothing half-written was left. Free some space" in said


def test_too_little_space_is_told_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    said = refused(["--checkpoint", str(checkpoint)], tmp_path / "export", capsys)
    assert "of disk are needed and 0.1 GB are free (graphs with their weights in" in said


@pytest.mark.parametrize("command", ["onnx", "compile-check"])
@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_no_jobs_at_all_are_refused(command: str, jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--jobs", jobs])
    assert ended.value.code == 2
    assert f"argument --jobs: '{jobs}', accepted: a whole number from 1 up" in capsys.readouterr().err


def test_only_a_checkpoint_that_cannot_be_written_is_said_to_need_that(tmp_path: Path) -> None:
    def message(path: str) -> str:
        return disk_error(OSError(errno.EACCES, "Permission denied", str(tmp_path / path)), tmp_path / "checkpoint")

    assert "Graphs of a large checkpoint are written into its folders" in message("checkpoint/transformer/x.onnx")
    assert message("build/ranges.json").endswith("ranges.json'")
    assert "Graphs" not in disk_error(OSError(errno.EROFS, "Read-only file system"), tmp_path)
