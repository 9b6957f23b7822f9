"""A real tritonserver behind the proxy of deploy/auth_proxy: callers notice nothing, and inner models are out of reach."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing

import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from wan_t2v_client import Connection, Progress, TextToVideo

from embedded.server import Server
from tests.deploy.auth_proxy import running_envoy
from tests.server.calls import LONG, SMALL, inputs
from tests.server.statistics import executions_when_idle

EXPERTS = ("high_noise_expert", "low_noise_expert")


@pytest.fixture(scope="module")
def proxied(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_envoy(tmp_path_factory.mktemp("envoy"), server.grpc_url) as address:
        yield address


def test_both_endpoints_give_the_same_bytes_through_it(proxied: str, client: TextToVideo) -> None:
    direct = client.generate("a red ball", **SMALL).video
    with TextToVideo(Connection(proxied)) as through:
        assert through.generate("a red ball", **SMALL).video == direct
        assert through.generate_unary("a red ball", **SMALL).video == direct
        assert through.limits() == client.limits()


def test_a_caller_who_leaves_it_stops_the_work(proxied: str, server: Server) -> None:
    before = executions_when_idle(server, *EXPERTS)
    with TextToVideo(Connection(proxied)) as through, closing(through.stream("a red ball", **LONG)) as stream:
        next(news for news in stream if isinstance(news, Progress))
    passes = sum(executions_when_idle(server, *EXPERTS).values()) - sum(before.values())
    assert passes < 2 * LONG["num_inference_steps"] / 2, "the rest of the loop did not run"


@pytest.mark.parametrize("model", ["prepare", "denoiser", "mp4_encoder", "text_encoder"])
def test_an_inner_model_is_not_called_through_it(model: str, proxied: str, server: Server) -> None:
    before = executions_when_idle(server, model)
    with (
        tritonclient.grpc.InferenceServerClient(proxied) as through,
        pytest.raises(InferenceServerException, match="only the model text_to_video is served here"),
    ):
        through.infer(model, inputs(SMALL))
    assert executions_when_idle(server, model) == before


def test_a_stream_goes_on_after_a_message_for_an_inner_model(proxied: str) -> None:
    refused: Future[str] = Future()
    video: Future[bytes] = Future()

    def heard(result: tritonclient.grpc.InferResult, error: InferenceServerException | None) -> None:
        if error is not None:
            refused.set_result(error.message())
        elif (found := result.as_numpy("video")) is not None and not video.done():
            video.set_result(bytes(found[0]))

    with tritonclient.grpc.InferenceServerClient(proxied) as through:
        through.start_stream(heard)
        through.async_stream_infer("prepare", inputs(SMALL))
        assert "only the model text_to_video_stream is served here" in refused.result(timeout=120)
        through.async_stream_infer("text_to_video_stream", inputs(SMALL))
        assert video.result(timeout=120)
