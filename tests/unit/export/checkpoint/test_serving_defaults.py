"""The checkpoint's own defaults and tokenizer, damaged."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.folder import Checkpoint
from tests.unit.export.checkpoint.damages import (
    DEFAULTS,
    POINTER,
    TOKENIZER,
    Damage,
    check_refused,
    edited,
    replaced,
)


def defaults(**changes: Any) -> Damage:
    """A `serving_defaults.json` of the checkpoint's own, with entries changed or removed."""

    def damage(folder: Path) -> None:
        entries = {**Checkpoint.open(folder).defaults, **changes}
        (folder / DEFAULTS).write_text(json.dumps({name: e for name, e in entries.items() if e is not ...}))

    return damage


DEFAULTS_AND_TOKENIZERS: dict[str, tuple[Damage, str]] = {
    "defaults that are a list": (replaced(DEFAULTS, "[]"), "serving_defaults.json holds a JSON list"),
    "defaults without entries": (
        replaced(DEFAULTS, '{"height": 64}'),
        "defaults.json: flow_shift, fps, .* are missing",
    ),
    "defaults without sources": (defaults(height=64), "height is 64, accepted: an object with a value and its source"),
    "a default of another type": (defaults(fps={"value": "16"}), "fps is '16', accepted: an integer"),
    "a default that is missing": (defaults(fps=...), "defaults.json: fps is missing or unknown"),
    "half a character": (defaults(negative_prompt={"value": "\ud800"}), "surrogates not allowed"),
    "a default off the grid": (defaults(height={"value": 100}), "height: got 100; accepted: a multiple of 16"),
    "a default beyond the limit": (defaults(flow_shift={"value": math.inf}), "flow_shift: got inf"),
    "a preview map of another shape": (replaced("latent_preview.json", "[]"), "is no preview map .* new one is fitted"),
    "no tokenizer.json": (
        replaced(TOKENIZER, None),
        "tokenizer.json is missing .found: tokenizer_config.json.* AutoToke",
    ),
    "a tokenizer that is a pointer": (replaced(TOKENIZER, POINTER), "tokenizer.json is a pointer file of Git LFS"),
    "half a tokenizer": (replaced(TOKENIZER, '{"version": "1.0", "model"'), "tokenizer.json is not valid JSON"),
    "no tokenizer in it": (replaced(TOKENIZER, '{"version": "1.0"}'), "tokenizer.json is no tokenizer"),
    "a tokenizer of more words": (
        edited("text_encoder/config.json", vocab_size=300),
        "has token ids up to .* vocab_size is 300",
    ),
    "another end token": (edited("text_encoder/config.json", eos_token_id=2), "expects its end token 2 last"),
    "a text length of none": (edited("tokenizer/tokenizer_config.json", model_max_length="x"), "model_max_length is"),
}


@pytest.mark.parametrize("name", DEFAULTS_AND_TOKENIZERS)
def test_damaged_defaults_or_a_damaged_tokenizer_are_refused_with_one_line(name: str, folder: Path) -> None:
    damage, message = DEFAULTS_AND_TOKENIZERS[name]
    check_refused(damage, message, folder)
