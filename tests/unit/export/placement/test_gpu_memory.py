"""Bytes follow from the architecture; the figures are those of the real model, counted from its own modules."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from google.protobuf import text_format
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.checkpoint.architecture import A14B
from export.checkpoint.component_configs import read_architecture
from export.checkpoint.config_file import CheckpointError
from export.placement.gpu_memory import GIB, GpuMemory, ServingProfile, SettingsError, parse_size, unique_sizes
from export.placement.gpus import Gpu
from export.placement.measured_plans import check_programs, measured_contexts
from export.placement.torch_memory import vae_in_torch
from tests.conftest import ROOT
from wan_t2v.shapes import VideoShape

SIZES = {"480p": "480x832", "720p": "720x1280"}


def memory(*sizes: str, measured: dict[str, int] | None = None, **precisions: str) -> GpuMemory:
    return GpuMemory(A14B, ServingProfile(unique_sizes(sizes), **precisions), measured or {})


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a14b_has_as_many_parameters_as_was_published() -> None:
    assert A14B.expert.parameters == 14_288_491_584
    assert A14B.expert.block_parameters == 351_394_304
    assert A14B.expert.fp32_parameters == 29_184_000
    assert A14B.text_encoder.parameters == 5_680_910_336
    assert A14B.vae.decoder_parameters == 73_295_331 + 272


def test_the_formulas_count_what_the_modules_have(checkpoint: Path) -> None:
    """wan-mini's own configs, and A14B's, on torch's device without memory."""
    configs = {part: json.loads((checkpoint / part / "config.json").read_text()) for part in ("transformer", "vae")}
    mini = read_architecture(checkpoint)
    with torch.device("meta"):
        for architecture, expert, vae in (
            (mini, WanTransformer3DModel.from_config(configs["transformer"]), configs["vae"]),
            (A14B, WanTransformer3DModel(num_layers=40, ffn_dim=13824, num_attention_heads=40), None),
        ):
            assert architecture.expert.parameters == parameters(expert)
            decoder = AutoencoderKLWan.from_config(vae) if vae else AutoencoderKLWan()
            assert architecture.vae.decoder_parameters == parameters(decoder.decoder) + parameters(
                decoder.post_quant_conv
            )
        encoder = UMT5EncoderModel(UMT5Config.from_pretrained(checkpoint / "text_encoder"))
    assert mini.text_encoder.parameters == parameters(encoder)


@pytest.mark.parametrize(("size", "gib"), [("480p", 3.52), ("720p", 8.12)])
def test_a_set_of_caches_in_fp32(size: str, gib: float) -> None:
    full = memory(SIZES[size]).largest_cache_set
    assert round(full / GIB, 2) == gib
    assert memory(SIZES[size], vae="bf16").largest_cache_set == full // 2


def test_the_vaes_weights_and_caches_are_those_that_were_measured() -> None:
    path = ROOT / "benchmarks/results/gpu-NVIDIA-H200-2026-11-28.json"
    rows = json.loads(path.read_text())["parts"]["vae"]["rows"]
    for row in (row for row in rows if row["precision"] != "tf32"):
        memory = GpuMemory(A14B, ServingProfile((parse_size(row["size"]),), vae=row["precision"]), {})
        assert memory.largest_cache_set / GIB == pytest.approx(row["caches_gib"], rel=1e-3)
        assert vae_in_torch(memory).weights / 2 / GIB == pytest.approx(row["weights_gib"], rel=1e-3)
        held = vae_in_torch(memory).weights / 2 + 2 * memory.largest_cache_set
        assert held + vae_in_torch(memory).context < row["peak_gib"] * GIB, "its caches kept larger tensors alive"


def test_caches_are_those_of_the_exported_graph_and_of_the_config(repository: Path, checkpoint: Path) -> None:
    mini = [c for c in read_architecture(checkpoint).vae.convolutions() if c.cached]
    graph = onnx.load(repository / "vae_decoder_next/1/model.onnx", load_external_data=False).graph
    found = [
        (dims[1].dim_value, int(dims[3].dim_param.partition("*")[0]) if "*" in dims[3].dim_param else 1)
        for value in graph.input
        if value.name.startswith("cache_in_")
        for dims in [value.type.tensor_type.shape.dim]
    ]
    assert found == [(c.channels, c.scale) for c in mini]
    text = (repository / "vae_decoder_next/config.pbtxt").read_text()
    config = text_format.Parse(text, ModelConfig())
    a14b = [c for c in A14B.vae.convolutions() if c.cached]
    assert [tensor.dims[0] for tensor in config.input[1:]] == [c.channels for c in a14b]


def test_an_expert_in_16_bits_is_28_6_gb_and_in_fp8_the_outer_blocks_stay() -> None:
    plans = {p: memory("720x1280", experts=p).plans["low_noise_expert"].weights for p in ("bf16", "fp8", "fp32")}
    assert plans["fp32"] == 4 * A14B.expert.parameters
    assert plans["bf16"] == 2 * A14B.expert.parameters + 2 * A14B.expert.fp32_parameters
    assert plans["bf16"] - plans["fp8"] == 34 * A14B.expert.linear_parameters_of_a_block


def test_bindings_are_the_largest_sizes_and_contexts_one_a_size() -> None:
    small, large, both = (memory(*sizes).plans for sizes in (["480x832"], ["720x1280"], ["480x832", "720x1280"]))
    expert = "high_noise_expert"
    latents = 16 * 21 * 90 * 160
    assert large[expert].bindings == 2 * latents * 2 + 512 * 4096 * 2 + 4
    assert both[expert].bindings == large[expert].bindings
    assert both[expert].weights == large[expert].weights
    assert both[expert].context == small[expert].context + large[expert].context


def test_the_vaes_plans_are_one_a_size_with_caches_among_the_bindings() -> None:
    asked = memory("720x1280")
    one = asked.largest_cache_set
    frame = 3 * 720 * 1280 * 4
    latent = 16 * 90 * 160 * 4
    assert asked.plans["vae_decoder_first"].bindings == one + latent + frame
    assert asked.plans["vae_decoder_next"].bindings == 2 * one + latent + 4 * frame
    twice = memory("720x1280", "1280x720")
    assert twice.plans["vae_decoder_next"].bindings == 2 * asked.plans["vae_decoder_next"].bindings
    assert twice.plans["vae_decoder_next"].weights == 2 * asked.plans["vae_decoder_next"].weights


def test_activations_grow_with_the_tokens_and_hold_no_scores() -> None:
    """75,600 tokens; scores of one head alone would be 11 GB in 16 bits."""
    context = memory("720x1280").plans["high_noise_expert"].context
    assert context == 75_600 * 5120 * (6 * 2 + 2 * 4)
    assert memory("720x1280", "720x1280x1").plans["high_noise_expert"].context > context


def test_a_measured_context_takes_the_place_of_the_estimate() -> None:
    plan = memory("720x1280", measured={"high_noise_expert": 123}).plans["high_noise_expert"]
    assert (plan.context, plan.measured) == (123, True)
    assert not memory("720x1280").plans["high_noise_expert"].measured


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({"device_memory_bytes": [5], "sizes": ["720x1280x81"], "precision": "bf16", "profiles": [{}]}, 5),
        ({"device_memory_bytes": [5, 6], "sizes": ["720x1280x81"], "precision": "bf16"}, 11),
        ({"device_memory_bytes": [5], "sizes": ["480x832x81"], "precision": "bf16"}, None),
        ({"device_memory_bytes": [5], "sizes": ["720x1280x81"], "precision": "fp8"}, None),
        ({"sizes": ["480x832x81"], "precision": "bf16"}, None),
    ],
)
def test_only_plans_for_these_sizes_and_precisions_are_believed(
    manifest: dict[str, object], expected: int | None, tmp_path: Path
) -> None:
    written_manifest(tmp_path, "high_noise_expert/1", manifest)
    assert measured_contexts(tmp_path, memory("720x1280").profile).get("high_noise_expert") == expected


@pytest.mark.parametrize("measured", [None, 5, [], [5, 6], ["5"], [5.0], [True], [-1], {"0": 5}])
def test_a_plan_that_was_not_measured_is_refused_with_the_remedy(measured: object, tmp_path: Path) -> None:
    """One number for each of its profiles, of which this plan has one."""
    manifest = {"sizes": ["720x1280x81"], "precision": "bf16", "profiles": [{}]}
    written = manifest if measured is None else {**manifest, "device_memory_bytes": measured}
    written_manifest(tmp_path, "low_noise_expert/1", written)
    with pytest.raises(SettingsError) as refused:
        measured_contexts(tmp_path, memory("720x1280").profile)
    told = str(refused.value)
    assert told.startswith(str(tmp_path / "low_noise_expert/1/plan.json")) and "device_memory_bytes" in told
    assert "build_plans --sizes 720x1280x81" in told and "Job" in told


def test_a_manifest_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "low_noise_expert/1").mkdir(parents=True)
    (tmp_path / "low_noise_expert/1/plan.json").write_text("{")
    with pytest.raises(SettingsError, match="plan.json is not valid JSON.*deploy.image.build_plans"):
        measured_contexts(tmp_path, memory("720x1280").profile)


def test_programs_that_are_missing_beside_plans_are_told_with_their_command(tmp_path: Path) -> None:
    check_programs(tmp_path, ["text_encoder"], "make it")  # nothing is built yet: nothing to refuse
    written_manifest(tmp_path, "low_noise_expert/1", {})
    with pytest.raises(SettingsError, match="no model.pt2 of text_encoder, which.*in torch. Make it: make it"):
        check_programs(tmp_path, ["text_encoder"], "make it")
    (tmp_path / "text_encoder/1").mkdir(parents=True)
    (tmp_path / "text_encoder/1/model.pt2").touch()
    check_programs(tmp_path, ["text_encoder"], "make it")


def test_the_versions_of_a_vae_plan_are_added_up(tmp_path: Path) -> None:
    for version, size in ((1, "480x832x81"), (2, "720x1280x81")):
        manifest = {"device_memory_bytes": [version], "sizes": [size], "precision": "fp32"}
        written_manifest(tmp_path, f"vae_decoder_next/{version}", manifest)
    written_manifest(tmp_path, "text_encoder/1", {"device_memory_bytes": [7], "sizes": [], "precision": "bf16"})
    both, one = (memory(*sizes).profile for sizes in (("720x1280", "480x832"), ("720x1280",)))
    assert measured_contexts(tmp_path, both) == {"vae_decoder_next": 3, "text_encoder": 7}
    assert measured_contexts(tmp_path, one) == {"text_encoder": 7}


def written_manifest(repository: Path, folder: str, manifest: dict[str, object]) -> None:
    (repository / folder).mkdir(parents=True)
    (repository / folder / "plan.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("720", "accepted: <height>x<width>"),
        ("720x1280x81x1", "accepted: <height>x<width>"),
        ("-720x1280", "accepted: <height>x<width>"),
        ("730x1280", "height 730 is not a multiple of 16; nearest: 720 or 736"),
        ("720x8", "width 8 is not a multiple of 16; nearest: 16"),
        ("720x1280x80", r"80 frames are not 4k\+1; nearest: 77 or 81"),
        ("720x1280x0", r"0 frames are not 4k\+1; nearest: 1"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _ = memory(size).plans


def test_a_size_without_frames_has_81() -> None:
    assert parse_size("720x1280") == VideoShape(81, 720, 1280)
    assert unique_sizes(["720x1280", "720x1280x81"]) == (VideoShape(81, 720, 1280),)


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        ({"experts": "int4"}, "precision of the experts is 'int4', accepted: .*fp8"),
        ({"experts": "int8"}, r"precision of the experts is 'int8' \(it is ONNX Runtime's form.*accepted: bf16"),
        ({"text_encoder": "fp16"}, "precision of the text encoder is 'fp16' .*T5 overflows"),
        ({"vae": "fp8"}, "precision of the vae is 'fp8', accepted: fp32"),
    ],
)
def test_a_precision_that_is_not_offered_is_refused(precisions: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        memory("720x1280", **precisions)


def test_no_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="no size was named"):
        memory()


def test_gpus_by_their_name_or_exactly() -> None:
    h100 = Gpu.parse("80")
    assert h100.usable == Gpu.parse("81559MiB").usable
    assert Gpu.parse("80GB") == h100
    assert Gpu.parse("100").usable < 100 * 10**9, "a size that is not known counts as decimal"
    assert Gpu.parse("80 GB") == h100 and Gpu.parse("81559 MiB") == Gpu.parse("81559MiB")
    for wrong in ("0", "H100", "80  GB", "-80", "80.5"):
        with pytest.raises(SettingsError, match="accepted: gigabytes"):
            Gpu.parse(wrong)


@pytest.mark.parametrize("text", ["81559", "46068GB", "1001"])
def test_a_total_of_nvidia_smi_without_its_unit_is_not_taken_for_gigabytes(text: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean {text.removesuffix('GB')}MiB"):
        Gpu.parse(text)


def test_a_folder_that_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformer/config.json is missing"):
        read_architecture(tmp_path)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="config.json: qk_norm is missing, accepted"):
        read_architecture(tmp_path)
