"""The tokenizer that is installed: the file that was checked, whatever its config would make of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.config_file import CheckpointError
from export.checkpoint.tokenizer import check_tokenizer, save_tokenizer
from tests.unit.export.checkpoint.damages import TOKENIZER, edited

CONFIGS: dict[str, dict[str, Any]] = {
    "the published class, which transformers 5 makes anew": {"tokenizer_class": "T5TokenizerFast"},
    "a class without such a file": {"tokenizer_class": "ByT5Tokenizer"},
    "no class": {"tokenizer_class": 7, "added_tokens_decoder": 5},
    "tokens that the text encoder does not have": {"additional_special_tokens": [f"<t{i}>" for i in range(600)]},
    "another file": {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
    "code of the checkpoint": {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_that_was_checked_is_installed(name: str, folder: Path, tmp_path: Path) -> None:
    edited("tokenizer/tokenizer_config.json", **CONFIGS[name])(folder)
    (folder / "tokenizer/tokenizer.4.0.0.json").write_text("{}")
    (folder / "tokenizer/mine.py").write_text("raise SystemExit")
    save_tokenizer(folder, tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / TOKENIZER).read_bytes()


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        change(content)
        (folder / TOKENIZER).write_text(json.dumps(content))

    return damage


def begin_with_an_id_beyond_the_vocabulary(content: dict[str, Any]) -> None:
    template = content["post_processor"]
    template["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    template["special_tokens"]["<s>"] = {"id": "<s>", "ids": [10**6], "tokens": ["<s>"]}


def know_no_word(content: dict[str, Any]) -> None:
    content["model"] = {"type": "WordLevel", "vocab": {"</s>": 1}, "unk_token": "<unk>"}
    content["added_tokens"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (begin_with_an_id_beyond_the_vocabulary, "has token ids up to 1000000"),
        (know_no_word, "tokenizer.json is no tokenizer .*Download it again"),
    ],
)
def test_a_tokenizer_that_cannot_tokenise_for_the_text_encoder_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, folder: Path, tmp_path: Path
) -> None:
    changed(change)(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        save_tokenizer(folder, tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokenizer.json").exists()


def test_padding_in_the_file_does_not_hide_the_end_token(folder: Path) -> None:
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    changed(lambda c: c.update(padding={**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}))(folder)
    check_tokenizer(folder)
