"""Signals: the work on the server stops, and no half file is left."""

import signal
from pathlib import Path

import pytest

from tests.fakes.client_process import assert_one_line, start_command
from tests.fakes.scripted_server import Pause, Step, serving

HUNG = (Step(1), Pause())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda x: str(int(x))
)
@pytest.mark.parametrize("command", ["generate", "batch"])
def test_a_signal_stops_the_work_and_leaves_no_half_file(
    tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a ball\n")
    with serving(HUNG) as hung:
        where = ["--out", str(out / "video.mp4" if command == "generate" else out), "--url", hung.url]
        begin = ["generate", "a ball"] if command == "generate" else ["batch", str(prompts)]
        with start_command(*begin, *where) as process:
            hung.began.wait(60)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert hung.cancelled.wait(60)
    assert process.returncode == code
    assert_one_line(errors.decode(), "stopped")
    assert list(out.iterdir()) == []
