"""The VAE's graphs in one model version a size, as plans of several sizes are: each clip is decoded by its own."""

import shutil

import tritonclient.grpc
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server

REQUEST = {"prompt": "a red ball rolls left", "seed": 7, "num_inference_steps": 2, "num_frames": 9, "height": 64}
GRAPHS = ("vae_decoder_first", "vae_decoder_next")
SIZES = "64x64x9,64x96x9"


def test_each_size_is_decoded_by_its_own_version_at_both_endpoints(server: Server, options: ServerOptions) -> None:
    repository = options.repository
    for graph in GRAPHS:
        shutil.copytree(repository / graph / "1", repository / graph / "2")
        with (repository / graph / "configs/cpu.pbtxt").open("a", encoding="utf-8") as config:
            config.write("version_policy { all {} }\n")
    for model in ("vae_decoder", "text_to_video_stream"):
        with (repository / model / "configs/cpu.pbtxt").open("a", encoding="utf-8") as config:
            config.write(f'parameters {{ key: "version_sizes", value {{ string_value: "{SIZES}" }} }}\n')
    with running_server(options) as versioned:
        calls = [frames_calls(versioned)]
        for width, unary in ((64, True), (96, True), (64, False), (96, False)):
            with TextToVideo(Connection(versioned.grpc_url)) as client, TextToVideo(Connection(server.grpc_url)) as one:
                ask = client.generate_unary if unary else client.generate
                assert ask(width=width, **REQUEST).video == one.generate_unary(width=width, **REQUEST).video
            calls.append(frames_calls(versioned))
    grown = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(calls, calls[1:], strict=False)]
    assert grown == [(1, 0), (0, 1), (1, 0), (0, 1)]


def frames_calls(server: Server) -> tuple[int, int]:
    """How often each version of the first graph ran."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        found = client.get_inference_statistics(GRAPHS[0], as_json=True)["model_stats"]
    counts = {entry["version"]: int(entry.get("execution_count", 0)) for entry in found}
    return counts["1"], counts["2"]
