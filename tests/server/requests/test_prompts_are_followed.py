"""wan-mini as trained shows what the prompt asks for, through the server and as its MP4 decodes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wan_t2v_client import TextToVideo

from embedded.server import Server
from training.judge.adherence import measure_adherence, score
from training.judge.attributes import judge
from training.judge.pictures import main as write_pictures
from training.judge.pictures import shown_prompts
from training.judge.through_server import frames_from_mp4, generate_through, main
from training.world.prompts import fixed_prompts
from wan_t2v.mp4 import mp4_from_frames

PROMPTS = fixed_prompts(8)


def test_most_prompts_are_followed_in_colour_and_motion(client: TextToVideo) -> None:
    """Eight of the list that `make adherence` measures whole; a wrong expert, guidance or text would be far below."""
    scores = measure_adherence(generate_through(client), prompts=PROMPTS).scores
    assert scores.colour >= 0.75
    assert scores.motion >= 0.625


def test_an_empty_prompt_follows_nothing(client: TextToVideo) -> None:
    generate = generate_through(client)
    verdicts = [judge(generate("a", prompt.seed)) for prompt in PROMPTS]
    assert score(verdicts, PROMPTS).scores.all_three <= 0.125


def test_frames_survive_the_way_to_mp4_and_back() -> None:
    frames = np.zeros((5, 64, 64, 3), dtype=np.uint8)
    frames[:, 16:48, 16:48] = (220, 30, 40)
    decoded = frames_from_mp4(mp4_from_frames(frames, fps=16))
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4


def test_the_command_writes_the_sheet_and_ends_in_one_json_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], default_clip: tuple[int, int, int]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["--url", server.grpc_url, "--prompts", "2", "--out", str(sheet)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["prompts"] == 2
    assert told.keys() >= {"colour", "motion", "shape", "chance_colour", "chance_motion", "chance_shape"}
    with Image.open(sheet) as image:
        assert image.height >= default_clip[1]


def test_an_unreachable_server_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["--url", "127.0.0.1:1", "--prompts", "1", "--out", str(sheet)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not sheet.exists()


def test_the_pictures_show_four_different_motions(server: Server, tmp_path: Path) -> None:
    assert len({prompt.scene.motion for prompt in shown_prompts()}) == 4
    assert len({prompt.scene.shape for prompt in shown_prompts()}) == 4
    assert write_pictures(["--url", server.grpc_url, "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "generated.gif") as animation:
        assert animation.n_frames == 17
