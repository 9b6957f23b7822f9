"""The metadata object that is made of all steps' reports."""

from typing import Any

import pytest

from tests.unit.wan_t2v.serving.models.test_vae_decoder import SETTINGS
from wan_t2v.serving.models.mp4_encoder import metadata

TOKENS = {"tokens": 3, "truncated": False}


@pytest.mark.parametrize("loras", [{}, {"loras": {"high_noise_expert": [{"file": "a.safetensors"}]}}])
def test_merged_loras_are_told_where_there_are_any(loras: dict[str, Any]) -> None:
    prepared = {"prompt": TOKENS, "negative_prompt": TOKENS, "prepare_ms": 1.0}
    denoised = {
        "steps": {},
        "timesteps": [],
        "passes": [2],
        "passes_saved": 0,
        "graphs": {"high_noise_expert": "a"},
        "denoise_ms": 2.0,
        **loras,
    }
    told = metadata(SETTINGS, [prepared, denoised])
    assert {name: told[name] for name in told.keys() & {"loras"}} == loras
    assert told["graphs"] == {"high_noise_expert": "a"} and told["stages_ms"] == {"prepare_ms": 1.0, "denoise_ms": 2.0}
