"""With `expert_residency: one_at_a_time` the experts are swapped on a real server, and nothing else changes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from wan_t2v_client import Connection, Generation, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server

REQUEST = {"prompt": "a red ball rolls left", "seed": 7, "num_inference_steps": 4, "num_frames": 5,
           "height": 64, "width": 64}  # fmt: skip
EXPERTS = {"high_noise_expert", "low_noise_expert"}


def generated(server: Server, **request: object) -> Generation:
    with TextToVideo(Connection(server.grpc_url)) as client:
        return client.generate_unary(**{**REQUEST, **request})


def loaded_experts(server: Server) -> set[str]:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(server.grpc_url) as client:
        return {name for name in EXPERTS if client.is_model_ready(name)}


@pytest.fixture
def swapping(options: ServerOptions) -> ServerOptions:
    config = options.repository / "denoiser/configs/cpu.pbtxt"
    parameter = 'parameters { key: "expert_residency", value { string_value: "one_at_a_time" } }\n'
    config.write_text(config.read_text(encoding="utf-8") + parameter, encoding="utf-8")
    for expert in EXPERTS:  # half the processes to start and to end at each swap
        config = options.repository / expert / "configs/cpu.pbtxt"
        config.write_text(config.read_text(encoding="utf-8").replace("count: 2", "count: 1"), encoding="utf-8")
    return options


def test_swapped_experts_give_the_same_bytes(server: Server, swapping: ServerOptions) -> None:
    """One clip after the other and two at once, which the two denoisers would give each other's expert."""
    alone = generated(server)
    assert alone.metadata["steps"].keys() == EXPERTS and min(alone.metadata["steps"].values()) > 0
    events: list[dict[str, Any]] = []
    with running_server(swapping, on_event=events.append) as swapped:
        first = generated(swapped)
        assert loaded_experts(swapped) == {"low_noise_expert"}
        assert first.metadata["stages_ms"]["swap_ms"] > 0
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda _: generated(swapped), range(2)))
    assert [generation.video for generation in (first, *both)] == [alone.video] * 3
    assert "died" not in {event["event"] for event in events}, "an unloaded expert is not a dead one"
