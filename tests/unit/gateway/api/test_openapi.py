"""Whatever schemathesis thinks of by the published OpenAPI, the gateway does not fail."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.scripted_server import MADE, serving

CALLS = ("POST /v1/videos", "POST /v1/videos/{video_id}/remix", "GET /v1/videos", "GET /v1/videos/{video_id}/content")


def never_fails(case: Any, seen: dict[str, list[int]]) -> None:
    answer, label = case.call(timeout=10), case.operation.label
    seen.setdefault(label, []).append(answer.status_code)
    assert answer.status_code < 500 or answer.status_code == 503, (label, answer.text)


@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed (gateway[test])"
)
def test_no_call_ends_in_an_error_of_the_gateway(start: Callable[..., Any]) -> None:
    """503 is an answer: a server behind that is not ready says so."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    seen: dict[str, list[int]] = {}
    with serving(MADE) as server:
        gateway = start(server_url=server.url, workers=0)
        published = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
        for found in published.get_all_operations():

            @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=found.ok().as_strategy())
            def call(case: Any) -> None:
                never_fails(case, seen)

            call()
    assert set(CALLS) < seen.keys() and len(seen) >= 15
    assert 200 in seen["POST /v1/videos"] and 400 in seen["POST /v1/videos"]
