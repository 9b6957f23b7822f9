"""What the published names of LoRA files say about their expert."""

from pathlib import Path

import pytest

from export.lora.file_names import expert_by_name

HIGH = [
    "WAN2.2_HighNoise_InstagirlMix_V1",
    "WAN2.2-HighNoise_SmartphoneSnapshotPhotoReality_v3",
    "Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16",
    "wan2.2_t2v_highnoise_lora",
    "wan22-hinoise-v2",
    "wan2.2_t2v_high_noise",
    "BounceHighWan2_2",
    "wan22high",
    "Wan22HighLora",
    "HighV2",
    "HighT2V",
    "HIGHNoise",
    "HIGH_NOISE_LowPoly_style",
    "mylora_wan22_high_step_2000",
    "Wan22-T2V-HIGH-steps1500",
    "Wan2.2_T2V_high_rank128",
    "wan22_lora_high_strength",
    "wan22_HIGH_lighting_4steps",
    "wan22-high-motion",
    "WAN2.2_HIGHnoise_style",
    "wan22_highnoise_low_vram",
    "wan_low_rank_high_noise",
]
LOW = [
    "Instagirlv2.0_lownoise",
    "DR34MJOB_I2V_14b_LowNoise",
    "WAN2.2_LowNoise_InstagirlMix_V1",
    "my-LOW",
    "style.low.v2",
    "wan22-LoNoise",
    "HighRes_LowNoise",
    "mychar_wan22_low_step2000",
    "Wan2.2_T2V_low_rank64",
    "WAN-2.2-T2V-Lightning-Low-Rank64",
    "Wan22_motion_low_fps16",
    "Wan2.2_cinematic_lighting_low_detail",
    "wan2.2-low-end",
    "wan22_low_vram",
    "LOWnoise_v1",
    "WAN_T2VLOW",
    "t2vlownoise",
]
NEITHER = [
    "flow_highlights",
    "slow_motion",
    "SlowMotion",
    "lowpoly",
    "LowPoly",
    "low_poly_style",
    "high-res-fix",
    "HighQualityDetail",
    "flownoise",
    "FLOWnoise",
    "HighContrast",
    "LowAngleShots",
    "HighKick_wan22",
    "LowRider_wan22",
    "wan22_HighDynamicRange",
    "HighPonytail_v2",
    "LowFi",
    "HiThere_lo",
    "Glow",
    "pillow",
    "noise",
    "low_and_high_noise",
    "HighLow_noise",
    "highnoise_lownoise",
    "HighLow",
    "",
]


@pytest.mark.parametrize(
    ("name", "expert"),
    [*((name, "high") for name in HIGH), *((name, "low") for name in LOW), *((name, None) for name in NEITHER)],
)
def test_the_expert_is_read_from_the_name(name: str, expert: str | None) -> None:
    assert expert_by_name(Path("/loras/low-noise") / f"{name}.safetensors") == expert, "its folder does not count"


@pytest.mark.parametrize(
    ("path", "expert"),
    [
        ("low_noise/adapter_model", "low"),
        ("/loras/style/HighNoise/pytorch_lora_weights", "high"),
        ("high_noise_model/diffusion_pytorch_model", "high"),
        ("out/lownoise/checkpoint-500/adapter_model", "low"),
        ("low/adapter_model.bf16", "low"),
        ("wan_high/lora-rank64_fp16", "high"),
        ("wan-Low/checkpoint-2000/adapter_model", "low"),
        ("wan22_high_noise_low_vram/adapter_model", "high"),
        ("low/style/adapter_model", None),
        ("low-vram/lora/pytorch_lora_weights", None),
        ("high_heels/pytorch_lora_weights", None),
        ("low-cost/checkpoint-2000/adapter_model", None),
        ("high-performance/model", None),
        ("slow/adapter_model", None),
    ],
)
def test_a_name_that_a_program_gave_counts_with_its_folder(path: str, expert: str | None) -> None:
    assert expert_by_name(Path(f"{path}.safetensors")) == expert


def test_the_folder_may_be_the_one_that_the_command_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "high_noise").mkdir()
    monkeypatch.chdir(tmp_path / "high_noise")
    assert expert_by_name(Path("adapter_model.safetensors")) == "high"
