from pathlib import Path

from export.to_plan.plan_specs import PlanSet, plans_of
from tests.unit.export.to_plan.plan_builds import CLIP, WIDE
from wan_t2v.facts import ModelFacts


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
