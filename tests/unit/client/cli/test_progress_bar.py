"""Previews beside the bar: one that cannot be written does not cost the video."""

from pathlib import Path

import pytest
from wan_t2v_client.cli.progress_bar import ProgressBar
from wan_t2v_client.progress import Progress

PREVIEW = b"a PNG"


def told(step: int) -> Progress:
    return Progress(step, 10, timestep=500.0, expert="low_noise_expert", step_s=1.0, left_s=1.0, preview=PREVIEW)


def test_a_preview_that_cannot_be_written_is_told_and_the_next_one_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step-0005.png").mkdir()
    with ProgressBar(tmp_path) as bar:
        bar.show(told(5))
        bar.show(told(10))
    assert (tmp_path / "step-0010.png").read_bytes() == PREVIEW
    assert capsys.readouterr().err == (
        f"wan-t2v: warning: {tmp_path}/step-0005.png: Is a directory; the video goes on without this preview\n"
    )
