from pathlib import Path

import pytest

from export.to_plan.builder import BuildError, PlanShapes
from export.to_plan.plan_specs import PlanSet, PlanSpec, check_plan_set, plans_of
from tests.unit.export.to_plan.plan_builds import CLIP, WIDE
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

ONE_SIZE = PlanSet((CLIP,))


def test_a_deployment_is_one_plan_an_expert_and_a_version_of_the_vae_a_size(exported: Path) -> None:
    facts = ModelFacts.read(exported)
    found = {(spec.graph, spec.version): spec for spec in plans_of(PlanSet((CLIP, WIDE), 2), facts)}
    assert set(found) == {
        ("text_encoder", 1),
        ("high_noise_expert", 1),
        ("low_noise_expert", 1),
        *((graph, version) for graph in ("vae_decoder_first", "vae_decoder_next") for version in (1, 2)),
    }
    expert = found["high_noise_expert", 1].shapes
    assert [profile["latent_width"] for profile in expert.profiles] == [16, 24] and expert.max_batch == 2
    assert expert.fixed == {"latent_frames": 5, "latent_height": 16, "text_length": facts.text_length}
    vae = found["vae_decoder_next", 2].shapes
    assert vae.profiles == ({"latent_frames": 1, "latent_height": 16, "latent_width": 24},) == (vae.fixed,)
    encoder = found["text_encoder", 1].shapes
    assert (encoder.max_batch, encoder.fixed) == (8, {"text_length": facts.text_length})


def test_attention_in_fp8_is_for_one_size() -> None:
    """With two sizes TensorRT takes it apart, which would be slower than BF16 and nobody would notice."""
    one, two = VideoShape(81, 480, 832), VideoShape(81, 720, 1280)
    specs = [PlanSpec("high_noise_expert", 1, sizes, PlanShapes(()), None) for sizes in ((one,), (one, two))]
    check_plan_set(ONE_SIZE, specs, {"high_noise_expert": "fp8"})
    check_plan_set(ONE_SIZE, specs[:1], {"high_noise_expert": "fp8-attention"})
    with pytest.raises(BuildError, match="in a plan for one size only. Name one size, or export with PRECISION=fp8"):
        check_plan_set(ONE_SIZE, specs, {"high_noise_expert": "fp8-attention"})


def test_the_form_of_onnx_runtime_is_not_built() -> None:
    specs = [PlanSpec("low_noise_expert", 1, (VideoShape(17, 128, 128),), PlanShapes(()), None)]
    with pytest.raises(BuildError, match="in int8: it is ONNX Runtime's form of INT8, and TensorRT's is `int8-bf16`."):
        check_plan_set(ONE_SIZE, specs, {"low_noise_expert": "int8"})
