"""Questions about the process itself."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_a_head_is_answered_like_a_get_without_its_body(path: str, start: Callable[..., Any]) -> None:
    http = start(workers=0).http
    told = http.head(path)
    assert (told.status_code, told.content) == (http.get(path).status_code, b"")
