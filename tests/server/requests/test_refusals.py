"""What bad input gets from the running server: INVALID_ARGUMENT, the field, what came, what is accepted."""

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from wan_t2v_client import RequestRefused, TextToVideo
from wan_t2v_client.text_to_video import UNARY_MODEL

from embedded.server import Server
from tests.server.statistics import executions_when_idle

SMALL = {"num_frames": 1, "height": 16, "width": 16, "num_inference_steps": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "   "}, "prompt: got an empty text"),
        ({"prompt": b"\xff"}, "prompt: got bytes that are not UTF-8"),
        ({"height": 100}, "Nearest: 96."),
        ({"width": 10**6}, "width: got 1000000; accepted: a multiple of 16 from 16 to 256 pixels. Nearest: 256."),
        ({"num_frames": 18}, "num_frames: got 18; accepted: 4k+1 (1, 5, ...) up to 81. Nearest: 17."),
        ({"num_inference_steps": 0}, "Nearest: 1."),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"output_type": "gif"}, "output_type: got 'gif'"),
        ({"latents": np.zeros((1, 16, 2, 2, 2), np.float32)}, "latents: got shape [1, 16, 2, 2, 2]"),
    ],
)
def test_a_bad_field_is_refused_before_any_work(
    fields: dict[str, Any], message: str, server: Server, client: TextToVideo
) -> None:
    before = executions_when_idle(server, "text_encoder", "high_noise_expert")
    with pytest.raises(RequestRefused) as refusal:
        client.generate_unary(**{"prompt": "a ball", **SMALL, **fields})
    assert message in str(refusal.value)
    assert executions_when_idle(server, "text_encoder", "high_noise_expert") == before


def test_a_missing_prompt_gets_our_message_and_not_the_ensembles(server: Server) -> None:
    assert "prompt: got nothing; accepted: a text that describes the video." in refused(server, [])


def test_an_unknown_parameter_is_refused_with_the_nearest_field(server: Server) -> None:
    message = refused(server, [text_input("prompt", "x")], parameters={"num_infer_steps": 3})
    assert "num_infer_steps: got an unknown field" in message
    assert "Nearest: num_inference_steps." in message


def test_an_unknown_json_key_is_refused_over_http(server: Server) -> None:
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/{UNARY_MODEL}/generate", json.dumps({"prompt": "x", "hight": 64}).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request)
    assert refusal.value.code == 400
    assert "hight: got an unknown field" in json.loads(refusal.value.read())["error"]


def test_wrong_type_rank_and_name_are_tritons_own_refusals(server: Server) -> None:
    """As they come from 2.51: nothing of ours runs."""
    prompt = text_input("prompt", "x")
    assert "data-type is 'FP32', but model 'text_to_video' expects 'INT32'" in refused(
        server, [prompt, array_input("height", np.array([64], np.float32), "FP32")]
    )
    assert "unexpected shape for input 'height'" in refused(
        server, [prompt, array_input("height", np.array([[64]], np.int32), "INT32")]
    )
    assert "unexpected inference input 'hight'" in refused(
        server, [prompt, array_input("hight", np.array([64], np.int32), "INT32")]
    )


def test_a_prompt_beyond_the_text_length_is_cut_and_the_answer_says_so(client: TextToVideo) -> None:
    metadata = client.generate_unary("a red ball " * 50, **SMALL).metadata
    assert metadata["prompt_truncated"]
    assert metadata["tokens"]["prompt"] == {"tokens": 151, "truncated": True}
    assert not client.generate_unary("a red ball", **SMALL).metadata["prompt_truncated"]


def test_prompts_are_not_written_to_the_log(server: Server, client: TextToVideo) -> None:
    client.generate_unary("a secret zebra", **SMALL)
    with pytest.raises(RequestRefused):
        client.generate_unary("a secret zebra", **{**SMALL, "height": 17})
    assert "zebra" not in server.log.read_text(encoding="utf-8", errors="replace")


def refused(server: Server, inputs: list[Any], **options: Any) -> str:
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException) as refusal,
    ):
        client.infer(UNARY_MODEL, inputs, **options)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    return str(refusal.value.message())


def text_input(name: str, text: str) -> tritonclient.grpc.InferInput:
    return array_input(name, np.array([text.encode()], np.object_), "BYTES")


def array_input(name: str, array: np.ndarray, datatype: str) -> tritonclient.grpc.InferInput:
    tensor = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor
