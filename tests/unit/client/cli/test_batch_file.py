"""A batch's file of prompts that cannot be read is refused in one line, before anything is sent."""

import os
from pathlib import Path

import pytest

from tests.fakes.client_process import run_refused

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("folder.txt", None, "Is a directory"),
        ("missing.jsonl", None, "No such file"),
        ("latin.txt", "ein B\u00e4llchen".encode("latin-1"), "line 1: 'utf-8' codec can't decode"),
        ("utf16.txt", "a ball\n".encode("utf-16"), "line 1: 'utf-8' codec can't decode"),
        ("broken.jsonl", b'{"prompt": "a ball"}\n{"prompt": ', "line 2: is not JSON"),
        ("deep.jsonl", b"[" * 100_000, "line 1: is JSON with too many levels"),
        ("digits.jsonl", b'{"prompt": "x", "seed": ' + b"9" * 5_000 + b"}", "too many digits"),
        ("long.jsonl", b'{"prompt": "x", "' + b"a" * 100_000 + b'": 1}', "unknown field 'aaa"),
        ("value.jsonl", b'{"prompt": "x", "seed": "' + b"a" * 100_000 + b'"}', "a number is needed"),
        ("half.jsonl", b'{"prompt": "\\ud800"}', "cannot be sent"),
        ("name.jsonl", '{{"prompt": "x", "name": "{}"}}'.format("\u7403" * 100).encode(), "longer than a file's name"),
        ("list.jsonl", b"[1, 2]", "is not a JSON object"),
        ("empty.txt", b"\n\n", "there is no prompt in it"),
        ("prompts.csv", b"a ball", "accepted are .txt"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    elif name == "folder.txt":
        file.mkdir()
    errors = run_refused(capsys, "batch", str(file), "--url", NOWHERE, "--out", str(tmp_path / "videos"))
    assert says in errors and str(file) in errors
    assert len(errors) < 1_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_of_prompts_without_permission_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").touch(mode=0)
    assert "Permission denied" in run_refused(capsys, "batch", str(tmp_path / "prompts.txt"), "--url", NOWHERE)
