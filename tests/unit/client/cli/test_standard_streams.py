"""Standard output and standard error, as shells leave them: full, closed, without an encoding."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.client_process import COMMAND, SIZE, assert_one_line, run_command
from tests.fakes.scripted_server import MADE, VIDEO, ScriptedServer, serving


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_ascii_terminal_gets_escapes(tmp_path: Path, environment: dict[str, str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "ein Ball, \u7403", "name": "b\u00e4lle"}\n', encoding="utf-8")
    with serving(MADE) as server:
        for command in (
            ["generate", "a ball", "--out", str(tmp_path / "b\u00e4lle.mp4")],
            ["batch", str(prompts), "--out", str(tmp_path / "b\u00e4lle")],
        ):
            code, output, errors = run_command(*command, "--url", server.url, environment=environment)
            assert code == 0 and "Traceback" not in errors, errors
            assert output
    assert (tmp_path / "b\u00e4lle.mp4").exists() and (tmp_path / "b\u00e4lle" / "b\u00e4lle.mp4").exists()


@pytest.fixture(scope="module")
def server():
    with serving(MADE) as scripted:
        yield scripted


def generate(server: ScriptedServer, out: str, *options: str, **streams) -> tuple[int, bytes, str]:
    return run_command("generate", "a ball", "--out", out, "--url", server.url, *SIZE, *options, **streams)


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_takes_the_video_and_nothing_else(server: ScriptedServer, out: str) -> None:
    code, output, errors = generate(server, out)
    assert (code, output) == (0, VIDEO)
    assert "5 frames of 32x48" in errors


def test_redirected_standard_output_is_written_into(server: ScriptedServer, tmp_path: Path) -> None:
    """Replaced by its name, the shell's file would be another one."""
    redirected = tmp_path / "redirected"
    with redirected.open("wb") as file:
        file.write(b"before:")
        file.flush()
        assert generate(server, "/dev/stdout", stdout=file)[0] == 0
        assert os.fstat(file.fileno()).st_nlink == 1
    assert redirected.read_bytes() == b"before:" + VIDEO


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_full_standard_output_does_not_blame_the_video(server: ScriptedServer, tmp_path: Path, json: list) -> None:
    out = tmp_path / "video.mp4"
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        code, _, errors = generate(server, str(out), *json, stdout=full)
    assert code == 6 and out.read_bytes() == VIDEO
    assert_one_line(errors, "wan-t2v: standard output: No space left on device")


def test_a_closed_pipe_does_not_blame_the_video(server: ScriptedServer, tmp_path: Path) -> None:
    out = tmp_path / "video.mp4"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        code, _, errors = generate(server, str(out), stdout=pipe)
    assert code == 6 and out.read_bytes() == VIDEO
    assert_one_line(errors, "wan-t2v: standard output: Broken pipe")


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"]])
def test_help_that_cannot_be_printed_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        code, _, errors = run_command(*arguments, stdout=full)
    assert code == 6
    assert_one_line(errors, "standard output: No space left on device")


def test_a_full_standard_error_ends_nothing(server: ScriptedServer, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a ball\na cube\n")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        code, output, _ = run_command("batch", str(prompts), "--out", str(tmp_path), "--url", server.url, stderr=full)
    assert code == 0 and b"2 made" in output


def test_what_a_closed_standard_error_would_have_had_does_not_go_into_the_video(server: ScriptedServer) -> None:
    options = ["generate", "a ball", "--out", "-", "--url", server.url]
    done = subprocess.run(["sh", "-c", '"$0" "$@" 2>&-', *COMMAND, *options], stdout=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stdout) == (0, VIDEO)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(server: ScriptedServer, tmp_path: Path, closed: str) -> None:
    out = tmp_path / "video.mp4"
    options = ["generate", "a ball", "--out", str(out), "--url", server.url]
    shell = ["sh", "-c", f'"$0" "$@" {closed}', *COMMAND, *options]
    assert subprocess.run(shell, capture_output=True, timeout=120).returncode == 0
    assert out.read_bytes() == VIDEO
