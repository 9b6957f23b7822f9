"""Same request, same plan, same seed: the same MP4 bytes, whatever else goes on."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wan_t2v_client import Connection, Generation, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.server.conftest import START_LIMIT_S
from tests.server.statistics import text_cache_hits
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.pipeline import Engines, mp4_from_settings
from wan_t2v.request import Settings
from wan_t2v.tokens import PromptTokenizer

REQUEST = {"prompt": "a red ball rolls left", "seed": 7, "num_inference_steps": 6, "num_frames": 9}
OTHERS = [(64, 64, 5), (96, 160, 9), (128, 128, 13), (160, 96, 1)]


def generated(url: str, **request: object) -> Generation:
    with TextToVideo(Connection(url)) as client:
        return client.generate_unary(**{**REQUEST, **request})


@pytest.fixture(scope="module")
def alone(server: Server) -> bytes:
    video = generated(server.grpc_url).video
    assert video is not None and len(video) > 1000
    return video


def test_repeated_alone(server: Server, alone: bytes) -> None:
    assert generated(server.grpc_url).video == alone


def test_another_seed_gives_another_video(server: Server, alone: bytes) -> None:
    assert generated(server.grpc_url, seed=8).video != alone


def test_while_four_others_of_other_sizes_run(server: Server, alone: bytes) -> None:
    with ThreadPoolExecutor(len(OTHERS) + 2) as pool:
        others = [
            pool.submit(generated, server.grpc_url, height=height, width=width, num_frames=frames, seed=frames)
            for height, width, frames in OTHERS
        ]
        same = [pool.submit(generated, server.grpc_url) for _ in range(2)]
        assert [future.result().video for future in same] == [alone, alone]
        for future, (height, width, frames) in zip(others, OTHERS, strict=True):
            settings = future.result().metadata["settings"]
            assert (settings["height"], settings["width"], settings["num_frames"]) == (height, width, frames)


def test_with_the_text_cache_warm_and_emptied(copied_repository: Path, tmp_path: Path, alone: bytes) -> None:
    """A cache with room for few prompts is emptied by others; the second server is also 'after a restart'."""
    options = ServerOptions(
        start_limit_s=START_LIMIT_S, repository=copied_repository, log=tmp_path / "log", text_cache_bytes=2**20
    )
    with running_server(options) as server:
        assert generated(server.grpc_url).video == alone
        warm = hits_during(server, lambda: generated(server.grpc_url))
        for number in range(20):
            generated(server.grpc_url, prompt=f"prompt {number}", negative_prompt=f"not {number}",
                      num_inference_steps=1, num_frames=1, height=16, width=16)  # fmt: skip
        video: list[bytes | None] = []
        emptied = hits_during(server, lambda: video.append(generated(server.grpc_url).video))
        assert (warm, emptied) == (2, 0)
        assert video == [alone]


def hits_during(server: Server, work: Callable[[], object]) -> int:
    before = text_cache_hits(server.grpc_url)
    work()
    return text_cache_hits(server.grpc_url) - before


REUSING = {"num_inference_steps": 20, "step_cache": 0.1, "guidance_skip": 0.5}


@pytest.mark.parametrize("fields", [{}, REUSING], ids=["exact", "reusing"])
def test_the_way_in_one_process_gives_the_same_bytes(
    fields: dict[str, float], server: Server, repository: Path
) -> None:
    facts = ModelFacts.read(repository / "denoiser/1")
    served = generated(server.grpc_url, **fields)
    assert (served.metadata["passes_saved"] > 0) == bool(fields)
    settings = Settings.from_json(json.dumps(served.metadata["settings"]))
    threads = {"vae_decoder_first": 2, "vae_decoder_next": 2}
    engines = Engines(
        **{
            name: OnnxRuntimeEngine(repository / name / "1/model.onnx", threads=threads.get(name, 1))
            for name in Engines.__dataclass_fields__
        }
    )
    tokenizer = PromptTokenizer(repository / "prepare/1", text_length=facts.text_length)
    assert mp4_from_settings(settings, facts, tokenizer=tokenizer, engines=engines) == served.video
