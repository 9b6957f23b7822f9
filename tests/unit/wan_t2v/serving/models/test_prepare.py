import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeRequest, FakeResponse, FakeTensor, FakeTritonError
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.run_directory import RunDirectory, chosen_path
from wan_t2v.serving.models.prepare import Prepare
from wan_t2v.serving.signed_settings import SettingsSigner


def encoder(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
    """Embeddings that tell how many tokens came."""
    count = inputs["attention_mask"].sum(axis=1)[:, None, None]
    return FakeResponse([FakeTensor(outputs[0], np.full((1, 64, 256), 1.0, np.float32) * count.astype(np.float32))])


def prepare(repository: Path, pb_utils: FakePbUtils, **parameters: str) -> Prepare:
    values = {"largest_clip": "256x256x81", "served_clips": "", "max_token_passes": "500000", **parameters}
    config = {"name": "prepare", "parameters": {name: {"string_value": value} for name, value in values.items()}}
    args = {"model_config": json.dumps(config), "model_repository": str(repository / "prepare"), "model_version": "1"}
    return Prepare(pb_utils, args)


def answer(repository: Path, pb_utils: FakePbUtils, **fields: Any) -> Any:
    (response,) = prepare(repository, pb_utils).execute([FakeRequest(**fields)])
    if response.has_error():
        return response.error()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def test_both_prompts_are_embedded_and_the_settings_resolved(repository: Path) -> None:
    pb_utils = FakePbUtils(encoder)
    found = answer(repository, pb_utils, prompt="  a red&nbsp;ball ", seed=np.array([7]))
    settings = SettingsSigner(RunDirectory(chosen_path()).key()).read(found["settings"][0]).settings
    assert (settings.prompt, settings.seed, settings.num_inference_steps) == ("a red ball", 7, 40)
    assert pb_utils.called == ["text_encoder", "text_encoder"]
    assert found["prompt_embeds"].max() == 4  # a, red, ball, end
    assert found["negative_prompt_embeds"].max() == 1  # the empty prompt's end


def test_without_guidance_one_prompt_is_embedded(repository: Path) -> None:
    pb_utils = FakePbUtils(encoder)
    answer(repository, pb_utils, prompt="a ball", guidance_scale=np.array([1.0], np.float32))
    assert pb_utils.called == ["text_encoder"]


def test_nothing_is_embedded_for_a_request_that_is_refused(repository: Path) -> None:
    pb_utils = FakePbUtils(encoder)
    refusal = answer(repository, pb_utils, prompt="a ball", height=np.array([100]))
    assert (refusal.code(), refusal.message()[:15]) == ("INVALID_ARG", "height: got 100")
    assert pb_utils.called == []


def test_noise_that_is_not_finite_is_refused(repository: Path) -> None:
    noise = np.zeros((1, 16, 5, 8, 8), np.float32)
    noise[0, 3, 2, 1, :2] = np.nan, np.inf
    refusal = answer(repository, FakePbUtils(encoder), prompt="a ball", latents=noise)
    assert refusal.code() == "INVALID_ARG"
    reason = "latents: got 2 values of 5120 that are not finite; accepted: finite numbers."
    assert refusal.message() == f"{reason} [INVALID_ARGUMENT field=latents]"


def test_a_failing_text_encoder_is_named(repository: Path) -> None:
    pb_utils = FakePbUtils(lambda *_: FakeResponse(failure=FakeTritonError("out of memory", "INTERNAL")))
    assert answer(repository, pb_utils, prompt="a ball").message() == "text_encoder: out of memory [INTERNAL]"


def test_defaults_that_are_not_served_stop_the_start(repository: Path) -> None:
    with pytest.raises(InvalidField, match="got 64x64x17; accepted: height x width x frames 64x64x5"):
        prepare(repository, FakePbUtils(encoder), served_clips="64x64x5")
