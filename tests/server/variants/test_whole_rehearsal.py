"""The GPU benchmark's part with whole videos, rehearsed on the CPU from random weights to MP4 files."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import run


@pytest.mark.nightly
def test_whole_videos_are_measured_through_the_server(root: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    out, keep = tmp_path / "gpu.json", tmp_path / "keep"
    places = ["--out", str(out), "--whole", str(tmp_path / "whole"), "--keep", str(keep)]
    command = ["--rehearse", "--limit", "1500", "--repository", str(root / "model_repository"), *places]
    assert run.main([*command, "--parts", "whole"]) == 0
    rows = json.loads(out.read_text())["parts"]["whole"]["rows"]
    videos = [row for row in rows if row["what"] == "video"]
    assert [row["passes"] for row in videos] == [4, 8, 4]
    assert all(row["video_bytes"] > 500 and 0 < row["outside_graphs"] < 1 for row in videos)
    assert len(list(keep.glob("*.mp4"))) == 3
