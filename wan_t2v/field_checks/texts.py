"""Decoding of a request's text fields."""

from wan_t2v.field_checks.invalid_field import LONGEST_NAME, InvalidField

MAX_PROMPT_BYTES = 65536  # far beyond any text length, so a longer prompt is a mistake


def check_prompt_bytes(field: str, raw: bytes) -> str:
    """Decode a prompt. Raises InvalidField if it is not UTF-8 or absurdly long."""
    if len(raw) > MAX_PROMPT_BYTES:
        raise InvalidField(field, f"{len(raw)} bytes", f"at most {MAX_PROMPT_BYTES} bytes of UTF-8 text")
    return check_text(field, raw)


def check_word(field: str, raw: bytes) -> str:
    """Decode a text field that is one of a few words. Raises InvalidField."""
    if len(raw) > LONGEST_NAME:
        raise InvalidField(field, f"{len(raw)} bytes", f"a word of at most {LONGEST_NAME} bytes")
    return check_text(field, raw)


def check_text(field: str, raw: bytes) -> str:
    """Decode a text field. Raises InvalidField if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidField(field, f"bytes that are not UTF-8 (at byte {error.start})", "UTF-8 text") from None
