"""What the loop hands to the experts through the server."""

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.pb_utils import FakePbUtils, FakeResponse, FakeTensor
from tests.unit.wan_t2v.serving.models.decoders import SETTINGS
from wan_t2v.cancellation import Cancelled
from wan_t2v.denoise import Step
from wan_t2v.facts import ModelFacts
from wan_t2v.serving.errors import KeyOfAnotherRequest, ParameterError
from wan_t2v.serving.loop.denoise_loop import DenoiseLoop
from wan_t2v.serving.resume.checkpoint_store import Checkpoints, Limits
from wan_t2v.serving.resume.resume import CheckpointWriter
from wan_t2v.step_profiles.profile import EXACT, StepProfile

EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds")


def denoising(repository: Path, pb_utils: FakePbUtils, **parameters: str) -> DenoiseLoop:
    config = {"name": "denoiser", "parameters": {name: {"string_value": text} for name, text in parameters.items()}}
    return DenoiseLoop(
        pb_utils,
        {
            "model_config": json.dumps(config),
            "model_repository": str(repository / "denoiser"),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        },
    )


@pytest.mark.parametrize(("parameters", "expected"), [({}, "float32"), ({"expert_precision": "fp16"}, "float16")])
def test_embeddings_and_latents_have_the_experts_type(
    parameters: dict[str, str], expected: str, repository: Path
) -> None:
    seen = []

    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        seen.append({name: str(array.dtype) for name, array in inputs.items()})
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    loop = denoising(repository, FakePbUtils(answer), **parameters)
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    settings = replace(SETTINGS, num_inference_steps=3, guidance_scale=4.0)
    latents, _ = loop.compute_latents(embeds, settings, is_cancelled=lambda: False)
    loop.close()
    assert latents.dtype == torch.float32
    types = {"hidden_states": expected, "timestep": "float32", "encoder_hidden_states": expected}
    assert seen and all(call == types for call in seen)


def test_the_report_names_the_loras_of_the_experts_manifests(repository: Path, tmp_path: Path) -> None:
    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    lora = {"file": "a.safetensors", "sha256": "a" * 64, "scale": 1.0}
    copy = tmp_path / "repository"
    for model in ("denoiser", "high_noise_expert", "low_noise_expert"):
        shutil.copytree(repository / model, copy / model, ignore=shutil.ignore_patterns("*.onnx"))
    manifest = copy / "high_noise_expert/1/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "loras": [lora]}))
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    for served, expected in ((copy, {"high_noise_expert": [lora]}), (repository, None)):
        loop = denoising(served, FakePbUtils(answer))
        _, report = loop.compute_latents(embeds, replace(SETTINGS, num_inference_steps=2), is_cancelled=lambda: False)
        loop.close()
        assert report.get("loras") == expected


def test_an_unknown_precision_is_refused_at_start(repository: Path) -> None:
    with pytest.raises(ParameterError, match="parameter expert_precision is 'int4', accepted: fp32, bf16, fp16"):
        denoising(repository, FakePbUtils(), expert_precision="int4")


def test_in_turn_who_leaves_during_a_pass_stops_the_other_of_the_same_step(repository: Path) -> None:
    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    server = FakePbUtils(answer)
    loop = denoising(repository, server, guidance_passes="in_turn")
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    settings = replace(SETTINGS, num_inference_steps=3, guidance_scale=4.0)
    with pytest.raises(Cancelled, match="before a pass"):
        loop.compute_latents(embeds, settings, is_cancelled=lambda: len(server.called) == 3)
    loop.close()
    assert len(server.called) == 3, "of the second step only the first pass ran"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("profile", [EXACT, StepProfile(step_cache=0.2, guidance_skip=0.5)], ids=["exact", "reusing"])
def test_an_interrupted_generation_goes_on_where_it_was_and_ends_in_the_same_latents(
    profile: StepProfile, solver: str, repository: Path, tmp_path: Path
) -> None:
    calls = []

    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        calls.append(model)
        velocity = 0.4 * inputs["hidden_states"] + inputs["timestep"].reshape(-1)[0] / 1000.0
        return FakeResponse([FakeTensor("velocity", velocity)])

    def run(checkpoint: CheckpointWriter | None, stop_after: int | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        def after(step: Step) -> None:
            if step.index == stop_after:
                raise Interrupted

        return loop.compute_latents(
            embeds, settings, is_cancelled=lambda: False, after_step=after, checkpoint=checkpoint
        )

    loop = denoising(repository, FakePbUtils(answer))
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    settings = replace(SETTINGS, num_inference_steps=16, guidance_scale=4.0, profile=profile, solver=solver)
    expected, whole = run(None)
    told = ("steps", "timesteps", "passes", "passes_saved")
    assert (whole["passes_saved"] > 0) == (not profile.is_exact)
    for stop_after, resumed_after, every in ((1, 0, 2), (3, 2, 2), (7, 6, 2), (16, 16, 2), (5, 5, 1), (9, 9, 1)):
        checkpoints = Checkpoints(tmp_path / f"{stop_after}", Limits(3600.0, 10**9))
        with checkpoints.lock("key") as checkpoint, pytest.raises(Interrupted):
            run(CheckpointWriter(checkpoint, every), stop_after)
        calls.clear()
        with checkpoints.lock("key") as checkpoint:
            latents, report = run(CheckpointWriter(checkpoint, every))
        assert torch.equal(latents, expected), f"taken up after step {resumed_after}"
        assert len(calls) == sum(whole["passes"][resumed_after:])
        assert report.get("resumed_after_step", 0) == resumed_after
        assert {name: report[name] for name in told} == {name: whole[name] for name in told}
    loop.close()


def test_a_graph_is_asked_at_fractions_of_timesteps(repository: Path) -> None:
    seen: list[tuple[str, float]] = []

    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        seen.append((model, float(inputs["timestep"].reshape(-1)[0])))
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    loop = denoising(repository, FakePbUtils(answer))
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    four = replace(SETTINGS, num_inference_steps=4, flow_shift=5.0, guidance_scale=1.0, solver="euler")
    _, report = loop.compute_latents(embeds, four, is_cancelled=lambda: False)
    loop.close()
    high, low = "high_noise_expert", "low_noise_expert"
    assert [model for model, _ in seen] == [high, high, low, low]
    assert [timestep for _, timestep in seen] == pytest.approx([1000.0, 937.5, 833.3333, 625.0])
    assert report["passes"] == [1, 1, 1, 1]


def test_a_profile_that_a_deployment_changed_begins_anew_and_other_raw_values_are_another_request(
    repository: Path, tmp_path: Path
) -> None:
    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    loop = denoising(repository, FakePbUtils(answer))
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    steps = replace(SETTINGS, num_inference_steps=16, guidance_scale=4.0)
    one, other = StepProfile(step_cache=0.1), StepProfile(step_cache=0.2)

    def resumed_after(key: str, name: str, profile: StepProfile, step_cache: float | None = None) -> int:
        settings = replace(steps, step_profile=name, profile=profile, step_cache=step_cache)
        with Checkpoints(tmp_path, Limits(3600.0, 10**9)).lock(key) as checkpoint:
            writer = CheckpointWriter(checkpoint, 1)
            _, report = loop.compute_latents(embeds, settings, is_cancelled=lambda: False, checkpoint=writer)
        return int(report.get("resumed_after_step", 0))

    assert [resumed_after("a", "fast", profile) for profile in (one, one, other, other)] == [0, 16, 0, 16]
    assert [resumed_after("b", "custom", one, 0.1) for _ in range(2)] == [0, 16]
    assert resumed_after("c", "fast", one, 0.1) == 0
    for key, name in (("b", "custom"), ("c", "fast")):
        with pytest.raises(KeyOfAnotherRequest):
            resumed_after(key, name, other, 0.2)
    with pytest.raises(KeyOfAnotherRequest):
        resumed_after("a", "exact", EXACT)
    loop.close()


def test_what_the_deployment_changed_begins_anew_and_other_noise_is_another_request(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    def resumed_after(key: str, *, embedding: float = 1.0, noise: float | None = None) -> int:
        tensors = {name: FakeTensor(name, torch.full((1, 4, 8), embedding)) for name in EMBEDDINGS}
        if noise is not None:
            tensors["latents"] = FakeTensor("latents", torch.full((1, 16, 1, 8, 8), noise))
        loop = denoising(copy, FakePbUtils(answer))
        with Checkpoints(tmp_path / "kept", Limits(3600.0, 10**9)).lock(key) as checkpoint:
            writer = CheckpointWriter(checkpoint, 1)
            _, report = loop.compute_latents(tensors, SETTINGS, is_cancelled=lambda: False, checkpoint=writer)
        loop.close()
        return int(report.get("resumed_after_step", 0))

    copy = Path(shutil.copytree(repository, tmp_path / "repository"))
    steps = SETTINGS.num_inference_steps
    assert [resumed_after("a") for _ in range(2)] == [0, steps]
    assert [resumed_after("a", embedding=2.0) for _ in range(2)] == [0, steps]  # of another text encoder
    with (copy / "low_noise_expert/configs/cpu.pbtxt").open("a") as config:
        config.write("# another engine\n")
    assert [resumed_after("a", embedding=2.0) for _ in range(2)] == [0, steps]
    read = ModelFacts.read
    monkeypatch.setattr(ModelFacts, "read", lambda folder: replace(read(folder), boundary_ratio=0.8))
    assert [resumed_after("a", embedding=2.0) for _ in range(2)] == [0, steps]  # of another switch of the experts
    assert resumed_after("b", noise=1.0) == 0
    with pytest.raises(KeyOfAnotherRequest):
        resumed_after("b", noise=2.0)


def test_the_sign_of_a_zero_makes_no_other_request_and_no_other_call(repository: Path, tmp_path: Path) -> None:
    """The rows of padding may come as -0.0 once and as 0.0 the next time."""
    seen = []

    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        seen.append(inputs["encoder_hidden_states"].tobytes())
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    loop = denoising(repository, FakePbUtils(answer))
    checkpoints = Checkpoints(tmp_path, Limits(3600.0, 10**9))
    names = ("prompt_embeds", "negative_prompt_embeds")
    for zero in (0.0, -0.0):
        embeds = {name: FakeTensor(name, torch.full((1, 4, 8), zero)) for name in names}
        with checkpoints.lock("key") as checkpoint:
            loop.compute_latents(
                embeds, SETTINGS, is_cancelled=lambda: False, checkpoint=CheckpointWriter(checkpoint, 2)
            )
        loop.compute_latents(embeds, SETTINGS, is_cancelled=lambda: False)
    loop.close()
    assert len(set(seen)) == 1


def test_a_full_disk_does_not_stop_a_video(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        return FakeResponse([FakeTensor("velocity", np.zeros_like(inputs["hidden_states"]))])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    loop = denoising(repository, FakePbUtils(answer))
    embeds = {name: FakeTensor(name, torch.ones(1, 4, 8)) for name in ("prompt_embeds", "negative_prompt_embeds")}
    with Checkpoints(tmp_path, Limits(3600.0, 10**9)).lock("key") as checkpoint:
        latents, _ = loop.compute_latents(
            embeds, SETTINGS, is_cancelled=lambda: False, checkpoint=CheckpointWriter(checkpoint, 1)
        )
        assert checkpoint.path.exists() is False
    loop.close()
    assert latents.isfinite().all() and "no checkpoint after step 1 of 1" in caplog.text
