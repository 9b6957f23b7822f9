"""Batches: every line checked first, some videos at a time, what is finished stays and is not made again."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_client import AsyncTextToVideo, RequestRefused
from wan_t2v_client.cli.batch_file import requests_from_file
from wan_t2v_client.cli.batch_folder import BatchFolder
from wan_t2v_client.cli.main import main

from tests.child_process import child_process
from tests.fakes.scripted_server import MADE, VIDEO, Pause, Refusal, ScriptedServer, Step, Video, serving

PROMPTS = "a red ball rolls left\n\na blue cube turns\n"


def written(folder: Path, text: str, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(folder: Path, *objects: Any) -> Path:
    return written(folder, "\n".join(json.dumps(one) for one in objects), "prompts.jsonl")


def batch(server: ScriptedServer, prompts: Path, *options: str) -> int:
    out = prompts.parent / "videos"
    return main(["batch", str(prompts), "--out", str(out), "--url", server.url, "--attempts", "1", *options])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "videos").iterdir())


def test_a_text_file_has_a_prompt_a_line_and_the_commands_fields_for_each(tmp_path: Path) -> None:
    path = written(tmp_path, f"\ufeff{PROMPTS}".replace("\n", "\r\n"))
    first, second = requests_from_file(path, {"seed": 7})
    assert (first.line, dict(first.fields)) == (1, {"seed": 7, "prompt": "a red ball rolls left"})
    assert (second.line, second.fields["prompt"]) == (3, "a blue cube turns")


def test_a_lines_own_fields_go_before_the_commands(tmp_path: Path) -> None:
    path = lines(tmp_path, {"prompt": "a ball", "seed": 3, "fps": None}, {"prompt": "a ball", "guidance_scale": 4})
    first, second = requests_from_file(path, {"seed": 7, "fps": 8})
    assert first.fields == {"prompt": "a ball", "seed": 3}
    assert second.fields == {"prompt": "a ball", "seed": 7, "fps": 8, "guidance_scale": 4.0}


def test_names_follow_the_request_and_not_its_place(tmp_path: Path) -> None:
    ball, cube = requests_from_file(written(tmp_path, PROMPTS), {})
    moved = requests_from_file(written(tmp_path, f"ein Hündchen\n球\n{PROMPTS}a blue cube turns"), {})
    assert ball.name.startswith("a-red-ball-rolls-left-") and cube.name.startswith("a-blue-cube-turns-")
    assert [request.name for request in moved[2:]] == [ball.name, cube.name, f"{cube.name}-2"]
    assert moved[1].name.startswith("video-")
    assert requests_from_file(written(tmp_path, PROMPTS), {"seed": 1})[0].name != ball.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a ball"', "line 2: is not JSON: .* at character 20"),
        ('["a ball"]', "line 2: is not a JSON object"),
        ('{"seed": 7}', "line 2: prompt: got none"),
        ('{"prompt": "  "}', "line 2: prompt: got none"),
        ('{"prompt": ["a ball"]}', "line 2: prompt: got .*a text is needed"),
        ('{"prompt": "a", "num_frame": 5}', r"line 2: unknown field 'num_frame' \(is num_frames meant\?\)"),
        ('{"prompt": "a", "num_frames": 5.5}', "line 2: num_frames: got 5.5"),
        ('{"prompt": "a", "num_frames": "5"}', "line 2: num_frames: got '5', .*a number is needed"),
        ('{"prompt": "a", "seed": true}', "line 2: seed: got True"),
        ('{"prompt": "a", "height": 4294967312}', "line 2: height: got 4294967312"),
        ('{"prompt": "a", "flow_shift": 1e300}', r"line 2: flow_shift: got 1e\+300"),
        ('{"prompt": "a", "output_type": "frames"}', "line 2: output_type: cannot be chosen in a batch"),
        ('{"prompt": "a", "name": "../a"}', "line 2: name: got '../a'"),
        ('{"prompt": "a", "name": "good"}', "line 2: name: 'good' is that of line 1 too"),
        (r'{"prompt": "\ud800"}', "line 2: prompt: got .* cannot be sent"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    path = written(tmp_path, f'{{"prompt": "a ball", "name": "good"}}\n{line}\n', "prompts.jsonl")
    with pytest.raises(RequestRefused, match=message):
        requests_from_file(path, {})
    with serving(MADE) as server:
        assert batch(server, path) == 2
        assert not server.requests and not (tmp_path / "videos").exists()
    assert capsys.readouterr().err.startswith("wan-t2v: ")


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xff\xfe\ngood\n\xff\n")
    with pytest.raises(RequestRefused) as refusal:
        requests_from_file(path, {})
    assert [text.split(": ")[0].rpartition(", ")[2] for text in str(refusal.value).splitlines()] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("name", "message"), [("p.csv", "accepted are .txt"), ("none.txt", "No such file"), ("empty.txt", "no prompt")]
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, name: str, message: str) -> None:
    written(tmp_path, "\n \n", "empty.txt")
    with pytest.raises(RequestRefused, match=message):
        requests_from_file(tmp_path / name, {})


def test_each_video_has_a_description_and_is_not_made_again(tmp_path: Path, capsys) -> None:
    prompts = written(tmp_path, PROMPTS)
    with serving(MADE) as server:
        assert batch(server, prompts, "--seed", "7") == 0
        assert "2 made, 0 skipped, 0 failed, 0 unfinished" in capsys.readouterr().out
        ball = requests_from_file(prompts, {"seed": 7})[0]
        told = json.loads((tmp_path / f"videos/{ball.name}.json").read_text())
        assert (tmp_path / f"videos/{ball.name}.mp4").read_bytes() == VIDEO
        assert told["request"] == ball.fields and told["metadata"]["settings"]["seed"] == 7
        written(tmp_path, f"a third\n{PROMPTS}")
        assert batch(server, prompts, "--seed", "7", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert [fact["line"] for fact in report["skipped"]] == [2, 4] and [f["line"] for f in report["made"]] == [1]
        assert server.prompts()[2:] == ["a third"]
        assert len(files(tmp_path)) == 6


@pytest.mark.parametrize("damage", ["cut the video", "no description", "half a description"])
def test_what_is_not_finished_and_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    prompts = lines(tmp_path, {"prompt": "a ball", "name": "ball"})
    with serving(MADE) as server:
        assert batch(server, prompts) == 0
        video, description = tmp_path / "videos/ball.mp4", tmp_path / "videos/ball.json"
        if damage == "cut the video":
            video.write_bytes(VIDEO[:3])
        elif damage == "no description":
            description.unlink()
        else:
            description.write_text(description.read_text()[:40])
        assert batch(server, prompts) == 0
        assert len(server.requests) == 2 and video.read_bytes() == VIDEO


def test_a_name_that_holds_another_requests_video_is_refused_before_anything_is_sent(tmp_path: Path, capsys) -> None:
    with serving(MADE) as server:
        assert batch(server, lines(tmp_path, {"prompt": "a ball", "name": "ball"})) == 0
        changed = lines(tmp_path, {"prompt": "new", "name": "new"}, {"prompt": "a cube", "name": "ball"})
        assert batch(server, changed) == 2
        assert "line 2: " in (told := capsys.readouterr().err) and "is the video of another request" in told
        assert len(server.requests) == 1


def test_so_many_are_under_way_and_no_more(tmp_path: Path) -> None:
    prompts = written(tmp_path, "\n".join(f"ball {index}" for index in range(7)))
    with serving([Pause(0.3), Video()]) as server:
        assert batch(server, prompts, "--concurrency", "3") == 0
        assert server.most_at_once == 3 and len(server.requests) == 7


def test_one_that_fails_is_told_and_the_others_are_made(tmp_path: Path, capsys) -> None:
    prompts = written(tmp_path, "one\ntwo\nthree\n")
    failures = [[Refusal("INVALID_ARGUMENT", "height: got 100")], [Step(1), Refusal("INTERNAL", "broken")]]
    with serving(*failures, MADE) as server:
        assert batch(server, prompts, "--concurrency", "1") == 1
        told = capsys.readouterr().out
        assert "1 made, 0 skipped, 2 failed, 0 unfinished" in told
        assert "line 1, one-" in told and ": height: got 100" in told and ": broken" in told
        assert len(files(tmp_path)) == 2
        assert batch(server, prompts) == 0, "the next time they are made"
        assert "2 made, 1 skipped" in capsys.readouterr().out


def test_a_batch_whose_videos_were_cancelled_by_nobody_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task group takes a task that ends as cancelled for a success."""

    async def cancelled(client: AsyncTextToVideo, **fields: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(AsyncTextToVideo, "generate", cancelled)
    with serving(MADE) as server:
        assert batch(server, written(tmp_path, PROMPTS)) == 5
    told = capsys.readouterr()
    assert "0 made, 0 skipped, 0 failed, 2 unfinished" in told.out
    assert told.err == "wan-t2v: 2 of 2 videos were cancelled, and not by this command\n"


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serving([Refusal()], MADE) as server:
        assert batch(server, written(tmp_path, "a ball"), "--attempts", "2") == 0
        assert len(server.requests) == 2


def test_a_video_that_could_not_be_written_is_known_before_anything_is_sent(tmp_path: Path, capsys) -> None:
    (tmp_path / "videos/ball.mp4").mkdir(parents=True)
    prompts = lines(tmp_path, {"prompt": "a cube"}, {"prompt": "a ball", "name": "ball"})
    with serving(MADE) as server:
        assert batch(server, prompts) == 6
        assert not server.requests
    assert "ball.mp4: Is a directory" in capsys.readouterr().err
    assert files(tmp_path) == ["ball.mp4"]


def test_a_video_that_cannot_be_written_ends_the_batch(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the check before it saw nothing, since the obstacle came later."""
    (tmp_path / "videos/ball.mp4").mkdir(parents=True)
    monkeypatch.setattr(BatchFolder, "check", lambda folder, request: None)
    prompts = lines(tmp_path, {"prompt": "a ball", "name": "ball"}, {"prompt": "a cube"}, {"prompt": "a cone"})
    with serving(MADE) as server:
        assert batch(server, prompts, "--concurrency", "1") == 6
        assert len(server.requests) == 1, "the next would be lost as well"
    told = capsys.readouterr()
    assert "ball.mp4: Is a directory" in told.err and "0 made, 0 skipped, 0 failed, 3 unfinished" in told.out


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "videos").write_text("a file")
    with serving(MADE) as server:
        assert batch(server, written(tmp_path, PROMPTS)) == 6
        assert not server.requests


def test_ctrl_c_stops_the_server_and_keeps_what_is_done(tmp_path: Path) -> None:
    prompts = written(tmp_path, "one\ntwo\nthree\n")
    with serving(MADE, [Step(1), Pause()]) as server:
        command = [sys.executable, "-m", "wan_t2v_client.cli.main", "batch", prompts, "--out", tmp_path / "videos",
                   "--concurrency", "1", "--url", server.url]  # fmt: skip
        with child_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("[1/3] made ")
            while len(server.requests) < 2:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 130 and err == "wan-t2v: stopped\n"
            assert "1 made, 0 skipped, 0 failed, 2 unfinished" in out
            assert server.cancelled.wait(10)
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["json", "mp4"]
