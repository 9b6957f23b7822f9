"""Every part of the GPU benchmark at small dimensions on the GPU. The same runs on the CPU in tests/unit."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu.run import PARTS, WITH_SERVER, Part
from benchmarks.gpu.scale import rehearsal_scale


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_each_part_measures_or_says_why_not(part: Part, gpu: str, repository: Path, tmp_path: Path) -> None:
    chosen = {"repository": repository} if part.name in WITH_SERVER else {}
    chosen |= {"folder": tmp_path / "whole"} if part.name == "whole" else {}
    rows = list(part.rows()(replace(rehearsal_scale(gpu), repeats=1), **chosen))
    assert rows
    if part.name != "attention":  # not every kernel takes these dimensions
        assert not [row for row in rows if "error" in row]
