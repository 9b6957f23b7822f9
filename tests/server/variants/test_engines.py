"""Other engines in a real server: the five graphs in torch and in OpenVINO, and the VAE's two graphs inside `vae_decoder`."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wan_t2v_client import Connection, Generation, TextToVideo

from benchmarks.harness.bf16 import bf16_is_missing
from benchmarks.harness.repository_copy import add_parameter, use_openvino
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.fakes.engine_checks import relative
from tests.fakes.programs import copy_programs, install_programs
from wan_t2v.contract import GRAPHS, MODELS_OF_ENDPOINT, STREAM

REQUEST = {"prompt": "a red ball rolls left", "seed": 7, "num_inference_steps": 4, "num_frames": 25,
           "height": 64, "width": 64}  # fmt: skip
VAE = ("vae_decoder_first", "vae_decoder_next")


def generated(server: Server, **request: object) -> Generation:
    with TextToVideo(Connection(server.grpc_url)) as client:
        return client.generate(**{**REQUEST, **request})


@pytest.mark.parametrize(
    "graphs", [("text_encoder", "high_noise_expert"), pytest.param(tuple(GRAPHS), marks=pytest.mark.nightly)]
)
def test_graphs_in_torch_make_the_same_video(
    server: Server, options: ServerOptions, checkpoint: Path, root: Path, graphs: tuple[str, ...]
) -> None:
    repository = options.repository
    copy_programs(install_programs(checkpoint, root / "build/test-programs", graphs), repository, graphs)
    for graph in graphs:
        add_parameter(repository, graph, "engine", "torch")
        (repository / graph / "1/model.onnx").unlink()
    expected = [generated(server, output_type=kind) for kind in ("latents", "frames")]
    with running_server(replace(options, models=MODELS_OF_ENDPOINT[STREAM])) as in_torch:
        latents, frames = (generated(in_torch, output_type=kind) for kind in ("latents", "frames"))
    assert all(steps > 0 for steps in latents.metadata["steps"].values()), "both experts must take part"
    assert 0 < relative(latents.latents, expected[0].latents) < 1e-4, "another engine, so close and not equal"
    assert np.abs(frames.frames.astype(int) - expected[1].frames).max() <= 1


@pytest.mark.skipif(bool(bf16_is_missing()), reason=bf16_is_missing())
def test_the_five_graphs_in_bf16_make_nearly_the_same_video_and_the_same_bytes_in_a_crowd(
    server: Server, options: ServerOptions
) -> None:
    use_openvino(options.repository, GRAPHS, precision="bf16")
    request = {"output_type": "frames", "num_inference_steps": 20}  # 4 steps go so far each that any rounding shows
    expected = generated(server, **request)
    with running_server(replace(options, models=MODELS_OF_ENDPOINT[STREAM])) as in_bf16:
        alone = generated(in_bf16, **request)
        with ThreadPoolExecutor(3) as callers:
            crowd = [callers.submit(generated, in_bf16, **request, seed=seed) for seed in (7, 8, 7)]
            first, other, second = (call.result() for call in crowd)
    assert np.array_equal(first.frames, alone.frames) and np.array_equal(second.frames, alone.frames)
    assert not np.array_equal(other.frames, alone.frames)
    error = np.abs(alone.frames.astype(int) - expected.frames)
    assert 0 < error.mean() < 1, "another precision, so close and not equal"


def test_the_vae_in_process_gives_the_same_bytes_and_calls_no_model(server: Server, options: ServerOptions) -> None:
    config = options.repository / "vae_decoder_next/configs/cpu.pbtxt"
    threads = re.search(r'key: "threads".*string_value: "(\d+)"', config.read_text(encoding="utf-8"))
    assert threads is not None
    add_parameter(options.repository, "vae_decoder", "engine_location", "in_process")
    add_parameter(options.repository, "vae_decoder", "threads", threads[1])
    expected = unary(server)
    with running_server(options) as in_process:
        answer = unary(in_process)
        assert vae_requests(in_process) == [0, 0]
    assert min(vae_requests(server)) > 0
    assert answer.video is not None and answer.video == expected.video


def unary(server: Server) -> Generation:
    with TextToVideo(Connection(server.grpc_url)) as client:
        return client.generate_unary(**REQUEST)


def vae_requests(server: Server) -> list[int]:
    """How often each of the VAE's two models was called, by the server's own count."""
    with TextToVideo(Connection(server.grpc_url)) as client:
        counts = {str(model["name"]): int(model["requests"]) for model in client.models()}
    return [counts[name] for name in VAE]


@pytest.mark.parametrize(("engine", "message"), [("tflite", "accepted: onnxruntime, torch, tensorrt, openvino"),
                                                 ("torch", "program.json is missing. Run `python -m export.to_torch_program"),
                                                 ("tensorrt", "Set kind: KIND_GPU")])  # fmt: skip
def test_an_engine_that_cannot_run_stops_the_start_with_its_reason(
    options: ServerOptions, engine: str, message: str
) -> None:
    add_parameter(options.repository, "text_encoder", "engine", engine)
    alone = replace(options, models=("text_encoder",))
    with pytest.raises(ServerError, match=re.escape(message)), running_server(alone):
        pass
