from pathlib import Path

import pytest
from transformers import AutoTokenizer

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.tokens import PromptTokenizer, clean_and_check_prompt, clean_prompt

LENGTH = 64
PROMPTS = ["a red ball rolls left", "", "Größe 漢字 \U0001f600!", "word " * 200, "a  b\tc"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_equal_those_of_the_checkpoints_own_tokenizer(prompt: str, repository: Path, checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer", local_files_only=True)
    expected = tokenizer(prompt, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="np")
    tokens = PromptTokenizer(repository / "prepare/1", text_length=LENGTH)(prompt)
    assert (tokens.input_ids == expected["input_ids"]).all()
    assert (tokens.attention_mask == expected["attention_mask"]).all()
    assert tokens.count == len(tokenizer(prompt).input_ids)
    assert tokens.truncated == (prompt == "word " * 200)


def test_prompts_are_cleaned_as_diffusers_does() -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    lines = "Ã\n\n\n\xa0schÃ¶n\n\n<b>&eacute;\n\n&eacute;\r\n\r\n\u2028\n\nâ€\n\n\n\x9d&lt;\n\n"
    for text in [" a &amp;amp; b ", "schÃ¶n", "a\n\n b\t c", "plain", "&lt;b&gt;", "  ", lines]:
        assert clean_prompt(text) == prompt_clean(text)


def test_a_missing_tokenizer_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json is missing. Run `make export`"):
        PromptTokenizer(tmp_path, text_length=LENGTH)


@pytest.mark.parametrize("text", ["a ball", "&#" + "9" * 999 + ";", "&amp;amp;", "#" + "1" * 999])
def test_an_unusual_prompt_is_cleaned_as_any_other(text: str) -> None:
    assert clean_and_check_prompt("prompt", text.encode()) == clean_prompt(text)


WIDE = "\uff11" * 5000  # full-width digits, of which ftfy makes ASCII


@pytest.mark.parametrize(
    "text",
    [
        "&#" + "9" * 5000 + ";",
        "&amp;#" + "9" * 5000 + ";",
        "&amp;amp;#" + "9" * 5000,
        f"&#{WIDE};",
        f"\uff06\uff03{WIDE}\uff1b",
        f"&amp;#{WIDE};",
        "&amp;&num;" + "9" * 5000,
    ],
)
def test_a_reference_that_html_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="negative_prompt: got a character reference of over a thousand digits"):
        clean_and_check_prompt("negative_prompt", text.encode())


def test_a_prompt_that_grows_under_normalisation_is_refused_before_it_is_tokenised() -> None:
    with pytest.raises(InvalidField, match="prompt: got 360000 characters after normalisation"):
        clean_and_check_prompt("prompt", ("\ufdfa" * 20_000).encode())
