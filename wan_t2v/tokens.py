"""Prompt to tokens to text embeddings: the cleaning and padding that WanPipeline does, without importing torch."""

import html
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from wan_t2v.engines.engine import Array, Engine
from wan_t2v.facts import TOKENIZER_FILE
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.texts import MAX_PROMPT_BYTES, check_prompt_bytes
from wan_t2v.installed_files import read_installed

# `html.unescape` gives up on more than 4300 digits. Looked for before each pass: ftfy makes ASCII digits of full-width
# ones, and an ampersand may itself be escaped.
_ENDLESS_REFERENCE = re.compile(r"#[0-9]{1000}")


@dataclass(frozen=True)
class Tokens:
    """A tokenised prompt: both arrays are (1, text_length) int64.

    `count` is the prompt's own number of tokens, end token included, before truncation.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    count: int
    truncated: bool


def clean_prompt(text: str) -> str:
    """Mend mis-decoded text, resolve HTML entities (twice escaped ones too) and collapse white space.

    The same steps as diffusers' WanPipeline; ftfy is pinned because results depend on it. Raises ValueError.
    """
    lines = re.sub(r"\n+", "\n", text)  # ftfy mends each line alone, also thousands of empty ones
    text = _unescape(_unescape(ftfy.fix_text(lines))).strip()
    return re.sub(r"\s+", " ", text).strip()


def _unescape(text: str) -> str:
    """Resolve HTML entities once. Raises ValueError for a reference that `html.unescape` would give up on."""
    if _ENDLESS_REFERENCE.search(text):
        raise ValueError("a character reference of over a thousand digits")
    return html.unescape(text)


def clean_and_check_prompt(field: str, raw: bytes) -> str:
    """Decode and clean a prompt, and check that its length can be tokenised. Raises InvalidField.

    Cleaning and the tokenizer's normalisation (NFKC) may make a text up to 18 times as long.
    """
    text = check_prompt_bytes(field, raw)
    try:
        text = clean_prompt(text)
    except ValueError:
        came = "a character reference of over a thousand digits"
        raise InvalidField(field, came, "a text that describes the video") from None
    length = len(unicodedata.normalize("NFKC", text))
    if length > MAX_PROMPT_BYTES:
        raise InvalidField(field, f"{length} characters after normalisation", f"at most {MAX_PROMPT_BYTES} characters")
    return text


class PromptTokenizer:
    """Turns cleaned prompts into Tokens of one fixed length."""

    def __init__(self, folder: Path, *, text_length: int) -> None:
        self._tokenizer = Tokenizer.from_str(read_installed(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._text_length = text_length

    @property
    def vocabulary(self) -> int:
        """Number of token ids, which count from 0."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    def __call__(self, prompt: str) -> Tokens:
        """Tokenise, cut to the text length (the end token stays last) and pad with zeros."""
        ids = self._tokenizer.encode(prompt).ids
        count = len(ids)
        truncated = count > self._text_length
        if truncated:
            ids = ids[: self._text_length - 1] + ids[-1:]
        input_ids = np.zeros((1, self._text_length), dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        input_ids[0, : len(ids)] = ids
        attention_mask[0, : len(ids)] = 1
        return Tokens(input_ids, attention_mask, count, truncated)


def text_embeddings(tokens: Tokens, text_encoder: Engine) -> Array:
    """Encode one prompt as (1, text_length, text_dim); the rows of padding are zero."""
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    return text_encoder(inputs, ["text_embeddings"])["text_embeddings"]
