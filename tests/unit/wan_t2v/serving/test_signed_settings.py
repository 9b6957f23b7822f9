"""Later steps take only what `prepare` checked in this run of the server."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.pb_utils import FakePbUtils, FakeRequest
from tests.unit.wan_t2v.serving.models.decoders import SETTINGS, decoder, signed
from wan_t2v.facts import ModelFacts
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import FINISHING, RunDirectory, chosen_path
from wan_t2v.serving.models.denoiser import Denoiser
from wan_t2v.serving.models.mp4_encoder import Mp4Encoder
from wan_t2v.serving.signed_settings import LONGEST_BYTES, Generation, SettingsSigner

SIGNER = SettingsSigner("a key")


def test_what_was_signed_is_read_back() -> None:
    generation = Generation.of(replace(SETTINGS, prompt="ein Ball \U0001f600 " * 100), deadline=12.5)
    assert SIGNER.read(SIGNER.sign(generation).encode()) == generation


def test_ids_do_not_repeat() -> None:
    assert Generation.of(SETTINGS).id != Generation.of(SETTINGS).id


def forged(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SIGNER.sign(Generation(SETTINGS, "1"))), **changes}).encode()


@pytest.mark.parametrize(
    "text",
    [
        SETTINGS.to_json().encode(),
        SettingsSigner("another key").sign(Generation(SETTINGS, "1")).encode(),
        forged(signed=json.dumps({"id": "1", "settings": replace(SETTINGS, seed=8).to_json(), "deadline": None})),
        forged(signed=""),
        forged(signed=None),
        forged(signature=""),
        forged(signature="\u00e4"),
        forged(signature=None),
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"id": "1"}',
        b"[" * 100_000,
        b" " * (LONGEST_BYTES + 1),
    ],
)
def test_nothing_else_is(text: bytes) -> None:
    with pytest.raises(InvalidField, match="settings: got .*; accepted: what the model prepare answered"):
        SIGNER.read(text)


@pytest.mark.parametrize("model", ["denoiser", "vae_decoder", "mp4_encoder"])
def test_each_inner_step_refuses_unsigned_settings_before_any_work(model: str, repository: Path) -> None:
    pb_utils = FakePbUtils()
    (response,) = made(model, repository, pb_utils).execute([call(model, repository, settings=SETTINGS.to_json())])
    assert response.error().code() == "INVALID_ARG"
    assert "call text_to_video instead" in response.error().message()
    assert pb_utils.called == []


@pytest.mark.parametrize(
    ("model", "tensor"),
    [
        ("denoiser", "prompt_embeds"),
        ("denoiser", "negative_prompt_embeds"),
        ("denoiser", "latents"),
        ("vae_decoder", "latents_to_decode"),
        ("mp4_encoder", "frames_to_encode"),
    ],
)
def test_a_tensor_of_another_shape_than_the_signed_settings_is_refused(
    model: str, tensor: str, repository: Path
) -> None:
    larger = {"frames_to_encode": np.zeros((21, 64, 64, 3), np.uint8)}.get(tensor, np.zeros((1, 16, 9, 64, 64), "f4"))
    pb_utils = FakePbUtils()
    settings = replace(SETTINGS, output_type="mp4")
    (response,) = made(model, repository, pb_utils).execute(
        [call(model, repository, settings=signed(settings), **{tensor: larger})]
    )
    assert response.error().code() == "INVALID_ARG", response.error().message()
    assert f"{tensor}: got shape {list(larger.shape)}" in response.error().message()
    assert pb_utils.called == []


def test_the_loop_ends_at_the_deadline_that_prepare_signed(repository: Path) -> None:
    """Also if the request waited for it in Triton's own queue, where its timeout is not counted."""
    pb_utils = FakePbUtils()
    late = signed(SETTINGS, deadline=time.monotonic() - 1.0)
    (response,) = made("denoiser", repository, pb_utils).execute([call("denoiser", repository, settings=late)])
    assert response.error().code() == "UNAVAILABLE"
    assert "the deadline" in response.error().message()
    assert pb_utils.called == []


def test_who_calls_the_encoder_takes_no_mark_of_another_clip(repository: Path) -> None:
    """Else a drain says that the server is empty while that clip is under way."""
    encoder = made("mp4_encoder", repository, FakePbUtils())
    run = RunDirectory(chosen_path())
    run.mark(FINISHING, "1")
    for settings in (SETTINGS.to_json(), signed(generation_id="2")):
        encoder.execute([call("mp4_encoder", repository, settings=settings)])
        assert load_of(run).finishing == 1
    encoder.execute([call("mp4_encoder", repository, settings=signed(generation_id="1"))])
    assert load_of(run).finishing == 0


def made(model: str, repository: Path, pb_utils: FakePbUtils) -> Any:
    if model == "vae_decoder":
        return decoder(repository, pb_utils)
    values = {"max_in_flight": "1", "max_queued": "1"}
    config = {"name": model, "parameters": {name: {"string_value": text} for name, text in values.items()}}
    args = {
        "model_config": json.dumps(config),
        "model_repository": str(repository / model),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }
    return {"denoiser": Denoiser, "mp4_encoder": Mp4Encoder}[model](pb_utils, args)


def call(model: str, repository: Path, **given: Any) -> FakeRequest:
    """Tensors that fit SETTINGS, but for those that are given."""
    facts = ModelFacts.read(repository / "prepare/1")
    embeds = torch.zeros(1, facts.text_length, facts.text_dim)
    tensors: dict[str, dict[str, Any]] = {
        "denoiser": {"prompt_embeds": embeds, "negative_prompt_embeds": embeds},
        "vae_decoder": {"latents_to_decode": torch.zeros(1, 16, 6, 4, 6)},
        "mp4_encoder": {
            "frames_to_encode": np.zeros((21, 32, 48, 3), np.uint8),
            **dict.fromkeys(("prepare_report", "denoise_report", "decode_report"), "{}"),
        },
    }
    return FakeRequest(**{**tensors[model], **given})
