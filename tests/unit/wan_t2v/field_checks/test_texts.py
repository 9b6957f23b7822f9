"""Texts that cannot be taken."""

import pytest

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.texts import MAX_PROMPT_BYTES, check_prompt_bytes


def test_text_that_is_not_utf8_or_absurdly_long_is_refused() -> None:
    with pytest.raises(InvalidField, match="prompt: got bytes that are not UTF-8"):
        check_prompt_bytes("prompt", b"\xff\xfe")
    with pytest.raises(InvalidField, match="65537 bytes"):
        check_prompt_bytes("prompt", b"x" * (MAX_PROMPT_BYTES + 1))
