"""`make demo`'s program, as the Makefile calls it."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_demo_writes_a_video_and_ends_in_one_json_object(
    repository: Path, root: Path, tmp_path: Path, default_clip: tuple[int, int, int]
) -> None:
    out = tmp_path / "demo.mp4"
    command = [sys.executable, "-m", "embedded.demo", "--repository", str(repository), "--out", str(out)]
    fields = ["--steps", "2", "--seed", "3", "--", '-a $5 "red" ball']
    finished = subprocess.run([*command, *fields], cwd=root, capture_output=True, text=True, check=True)
    told = json.loads(finished.stdout.splitlines()[-1])
    assert (told["frames"], told["height"], told["width"]) == default_clip
    assert told.items() >= {"video": str(out), "seed": 3}.items()
    assert told["seconds"] > 0
    assert out.read_bytes()[4:8] == b"ftyp"
    assert "server ready" in finished.stderr, "progress is shown"
