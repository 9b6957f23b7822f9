"""The ways in: the README's script, curl, the client's command; and what the answers say."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from wan_t2v_client import TextToVideo
from wan_t2v_client.cli.main import main

from embedded.server import Server
from tests.server.statistics import text_cache_hits

SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 2}


def video_of(data: bytes) -> tuple[int, int, int]:
    """Frames, height and width of an MP4."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return len(frames), *frames[0].shape[:2]


def code_block(page: Path, language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


def test_the_readmes_python_script_works_as_it_stands(
    server: Server, root: Path, tmp_path: Path, default_clip: tuple[int, int, int]
) -> None:
    script = code_block(root / "README.md", "python", "tritonclient").replace("127.0.0.1:8001", server.grpc_url)
    assert len(script.strip().splitlines()) <= 10
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    (video,) = tmp_path.glob("*.mp4")
    assert video_of(video.read_bytes()) == default_clip


def test_the_readmes_curl_command_works_as_it_stands(
    server: Server, root: Path, tmp_path: Path, default_clip: tuple[int, int, int]
) -> None:
    command = code_block(root / "README.md", "sh", "b64decode").replace("http://127.0.0.1:8000", server.http_url)
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True)
    (video,) = tmp_path.glob("*.mp4")
    assert video_of(video.read_bytes()) == default_clip


def test_the_pages_stream_over_curl_works_as_it_stands(server: Server, root: Path, tmp_path: Path) -> None:
    command = code_block(root / "docs/use/streaming.md", "sh", "generate_stream").replace(
        "http://127.0.0.1:8000", server.http_url
    )
    told = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    lines = [line for line in told.stdout.decode().splitlines() if line.startswith("data: ")]
    news = [line for line in lines if '"heartbeat"' not in line]
    assert len(news) == 41, "one line for each of 40 steps, and the video's"


def test_curl_gets_base64_on_request(server: Server) -> None:
    body = json.dumps({"prompt": "a ball", "video_encoding": "base64", **SMALL})
    url = f"{server.http_url}/v2/models/text_to_video/generate"
    answer = json.loads(subprocess.run(["curl", "-sf", url, "-d", body], capture_output=True, check=True).stdout)
    assert video_of(base64.b64decode(answer["video"])) == (5, 32, 48)
    assert json.loads(answer["metadata"])["settings"]["num_frames"] == 5


def test_each_output_type_gives_its_own_output_and_no_other(client: TextToVideo) -> None:
    found = {
        kind: client.generate_unary("a ball", seed=3, output_type=kind, **SMALL)
        for kind in ("mp4", "frames", "latents")
    }
    given = {kind: (g.video is not None, g.frames is not None, g.latents is not None) for kind, g in found.items()}
    assert given == {"mp4": (True, False, False), "frames": (False, True, False), "latents": (False, False, True)}
    assert found["frames"].frames.shape == (5, 32, 48, 3)
    assert found["latents"].latents.shape == (1, 16, 2, 4, 6)


def test_the_metadata_tells_how_the_video_was_made(client: TextToVideo) -> None:
    metadata = client.generate_unary("a  ball", seed=3, **SMALL).metadata
    assert metadata["settings"]["prompt"] == "a ball"
    assert metadata["settings"]["seed"] == 3
    assert set(metadata["stages_ms"]) == {"prepare_ms", "denoise_ms", "decode_ms", "encode_ms"}
    assert all(len(digest) == 16 for digest in metadata["graphs"].values())
    assert len(metadata["graphs"]) == 5


def test_without_a_seed_each_video_is_another_and_the_seed_is_told(client: TextToVideo) -> None:
    first, second = (client.generate_unary("a ball", **SMALL) for _ in range(2))
    assert first.video != second.video
    again = client.generate_unary("a ball", **{**SMALL, "seed": first.metadata["settings"]["seed"]})
    assert again.video == first.video


def test_given_latents_are_the_starting_noise(client: TextToVideo) -> None:
    """The noise of seed 3, handed over, gives the video of seed 3."""
    import torch

    noise = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(3)).numpy()
    given = client.generate_unary("a ball", latents=noise, **SMALL)
    assert given.video == client.generate_unary("a ball", seed=3, **SMALL).video
    other = np.ascontiguousarray(noise[..., ::-1])
    assert client.generate_unary("a ball", latents=other, **SMALL).video != given.video


def test_a_repeated_prompt_and_the_constant_negative_prompt_cost_nothing(server: Server, client: TextToVideo) -> None:
    client.generate_unary("a prompt nobody used before", **SMALL)
    before = text_cache_hits(server.grpc_url)
    client.generate_unary("a prompt nobody used before", **SMALL)
    assert text_cache_hits(server.grpc_url) - before == 2  # prompt and negative prompt
    client.generate_unary("another prompt nobody used before", **SMALL)
    assert text_cache_hits(server.grpc_url) - before == 3  # the negative prompt beside a new one


def test_the_command_writes_the_video_and_tells_about_it(server: Server, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new folder" / "ball.mp4"
    arguments = ["generate", "a red ball rolls left", "--out", str(out), "--seed", "7", "--steps", "2",
                 "--size", "32x48", "--frames", "5", "--url", server.grpc_url, "--json"]  # fmt: skip
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert video_of(out.read_bytes()) == (told["frames"], told["height"], told["width"]) == (5, 32, 48)
    assert told["seed"] == 7


def test_the_command_lists_the_models(server: Server, capsys) -> None:
    assert main(["models", "--url", server.grpc_url]) == 0
    assert "text_to_video        version 1" in capsys.readouterr().out


def test_the_commands_errors_are_one_line_and_an_exit_code(server: Server, tmp_path: Path, capsys) -> None:
    out = tmp_path / "x.mp4"
    generate = ["generate", "x", "--out", str(out)]
    assert main([*generate, "--size", "100x128", "--url", server.grpc_url]) == 2
    assert main([*generate, "--url", "127.0.0.1:1"]) == 3
    assert main([*generate, "--deadline-s", "0.05", "--url", server.grpc_url]) == 4
    assert main(["generate", "x", "--out", "/proc/x.mp4", "--url", server.grpc_url]) == 6
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4 and all(line.startswith("wan-t2v: ") for line in errors)
    assert "height: got 100" in errors[0]
    assert list(tmp_path.iterdir()) == [], "a failed command leaves no file"


@pytest.mark.parametrize("endpoint", ["http_url", "metrics_url"])
def test_the_command_says_at_once_that_a_port_is_not_grpcs(
    server: Server, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    url = urlsplit(getattr(server, endpoint)).netloc
    assert main(["models", "--url", url]) == 2
    assert f"got '{url}', where HTTP answers and not gRPC" in capsys.readouterr().err
