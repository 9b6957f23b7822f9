"""The metadata object that is made of all steps' reports."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.wan_t2v.serving.models.decoders import SETTINGS
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


@pytest.mark.parametrize(
    ("negative_prompt", "passes", "ignored"),
    [
        ("blurred", [2, 0, 1], False),
        ("blurred", [1, 0, 1], True),  # unguided, or guidance_skip=1 where every step is a low-noise one
        ("", [1, 1, 1], False),
    ],
)
def test_a_negative_prompt_is_ignored_where_no_negative_pass_ran(
    negative_prompt: str, passes: list[int], ignored: bool
) -> None:
    prepared = {"prompt": TOKENS, "negative_prompt": TOKENS}
    denoised = {"steps": {}, "timesteps": [], "passes": passes, "passes_saved": 0}
    settings = replace(SETTINGS, negative_prompt=negative_prompt, guidance_scale=4.0)
    assert metadata(settings, [prepared, denoised])["negative_prompt_ignored"] is ignored
