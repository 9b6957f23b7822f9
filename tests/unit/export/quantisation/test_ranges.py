"""Files of ranges that `calibrate` did not write, and where the command looks for its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from export.__main__ import main
from export.checkpoint.folder import CheckpointError
from export.quantisation.ranges import Fp8Ranges, read_ranges


def read(path: Path) -> Any:
    return read_ranges(path, "transformer", names=["a"], checkpoint_hash="1")


def whole(**changes: Any) -> dict[str, Any]:
    return {"checkpoint_hashes": {"transformer": "1"}, "ranges": {"transformer": {"a": 1.0}}, "made_with": {}} | changes


@pytest.mark.parametrize(
    "content",
    [
        "{",
        b"\xff\xfe",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps({"weights": [], "bias": []}),
        json.dumps(whole(further=1)),
        json.dumps(whole(checkpoint_hashes=["1"])),
        json.dumps(whole(ranges=[1.0])),
        json.dumps(whole(ranges={"transformer": [1.0]})),
    ],
)
def test_another_file_is_refused_with_the_command(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"other.json is no file of calibrated ranges .*export calibrate"):
        read(path)


@pytest.mark.parametrize("ranges", [{}, {"transformer": {}}, *({"transformer": {"a": v}} for v in ("1", None, -1.0))])
def test_ranges_that_are_no_positive_numbers_are_refused(ranges: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(whole(ranges=ranges)))
    with pytest.raises(CheckpointError, match=r"1 ranges of transformer are missing or not positive: \['a'\]"):
        read(path)


def test_export_looks_where_calibrate_writes_whatever_the_folder_of_graphs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "elsewhere/wan-mini"
    source.parent.mkdir()
    source.symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("export.quantisation.calibrate.calibrate", lambda *_: Fp8Ranges({}, {}, {}))
    assert main(["calibrate", "--checkpoint", str(source)]) == 0
    (written,) = (tmp_path / "build").iterdir()
    asked = ["onnx", "--checkpoint", str(source), "--precision", "fp8", "--folder", str(tmp_path / "graphs")]
    assert main(asked) == 1
    assert f"{written.relative_to(tmp_path)} was made for other weights" in capsys.readouterr().err
