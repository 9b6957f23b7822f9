"""A placement tells each model the types of the tensors that it exchanges with the others."""

from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.placement.configs import placed_configs
from export.placement.gpu_memory import VaeEngine
from export.placement.layouts import Layout
from tests.unit.export.placement.arrangements import BOTH, placed
from wan_t2v.contract import STREAM, UNARY


def types_of(config: ModelConfig) -> set[str]:
    names = ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    return {names[tensor.data_type].name for tensor in (*config.input, *config.output)}


def test_an_fp32_text_encoder_does_not_hand_fp32_to_experts_in_16_bits(copied: Path) -> None:
    mixed = placed(Layout.BOTH, "141", engine=VaeEngine.TRITON_PLANS, text_encoder="fp32", experts="fp8")
    assert placed_configs(mixed, copied)["denoiser"].parameters["expert_precision"].string_value == "bf16"
    assert "expert_precision" not in placed_configs(BOTH, copied)["denoiser"].parameters


@pytest.mark.parametrize("engine", [VaeEngine.TRITON_PLANS, VaeEngine.IN_PROCESS])
def test_who_calls_the_vaes_graphs_is_told_their_type(engine: VaeEngine, with_stream: Path) -> None:
    """Latents are FP32, and neither a plan nor Triton's core converts them."""
    in_bf16, in_fp32 = (
        placed_configs(placed(Layout.BOTH, "141", engine=engine, endpoints=(UNARY, STREAM), vae=vae), with_stream)
        for vae in ("bf16", "fp32")
    )
    for model in ("vae_decoder", STREAM):
        assert in_bf16[model].parameters["vae_precision"].string_value == "bf16"
        assert "vae_precision" not in in_fp32[model].parameters
    if engine is VaeEngine.TRITON_PLANS:
        assert types_of(in_bf16["vae_decoder_first"]) == types_of(in_bf16["vae_decoder_next"]) == {"TYPE_BF16"}


@pytest.mark.parametrize(
    ("precisions", "model", "types"),
    [
        ({"experts": "fp16"}, "high_noise_expert", {"TYPE_FP16", "TYPE_FP32"}),  # the timestep stays FP32
        ({"experts": "fp8"}, "high_noise_expert", {"TYPE_BF16", "TYPE_FP32"}),
        ({"text_encoder": "fp32"}, "text_encoder", {"TYPE_FP32", "TYPE_INT64"}),
        ({"text_encoder": "fp32"}, "denoiser", {"TYPE_FP32", "TYPE_STRING"}),
        ({"vae": "bf16"}, "vae_decoder_next", {"TYPE_BF16"}),
    ],
)
def test_tensors_have_the_precision_of_their_part(
    precisions: dict[str, str], model: str, types: set[str], copied: Path
) -> None:
    placement = placed(Layout.BOTH, "141", engine=VaeEngine.TRITON_PLANS, **precisions)
    assert types_of(placed_configs(placement, copied)[model]) == types
