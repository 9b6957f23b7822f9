"""Values of a request's fields, from its tensors."""

from typing import Any

import numpy as np

from wan_t2v.contract import REQUEST, Dtype
from wan_t2v.field_checks.texts import check_word
from wan_t2v.serving.python_backend.tensors import bytes_from_triton
from wan_t2v.tokens import clean_and_check_prompt

_PROMPTS = ("prompt", "negative_prompt")
_TEXTS = frozenset(field.name for field in REQUEST if field.dtype is Dtype.BYTES)


def field_value(name: str, tensor: Any) -> str | int | float:
    """Return the one element of a field's tensor; texts are decoded, prompts also cleaned. Raises InvalidField."""
    if name in _PROMPTS:
        return clean_and_check_prompt(name, bytes_from_triton(tensor))
    if name in _TEXTS:
        return check_word(name, bytes_from_triton(tensor))
    element: np.generic = tensor.as_numpy().reshape(-1)[0]
    value: int | float = element.item()
    return value
