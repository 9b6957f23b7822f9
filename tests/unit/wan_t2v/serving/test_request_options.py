"""A request's parameters are parsed once, over gRPC and HTTP alike."""

import json

import pytest

from tests.fakes.pb_utils import FakeRequest
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.request_options import ADMITTED, RequestOptions
from wan_t2v.serving.resume.idempotency import RequestKey, TrustedProxy

SECRET = "0123456789abcdef"
NOBODY, PROXY = TrustedProxy(), TrustedProxy(SECRET)


def options(*, proxy: TrustedProxy = NOBODY, run_key: str = "", **parameters: object) -> RequestOptions:
    return RequestOptions.from_triton(FakeRequest(parameters=json.dumps(parameters)), proxy, run_key=run_key)


def test_a_request_that_says_nothing_waits_for_ever_in_the_middle() -> None:
    assert RequestOptions.from_triton(FakeRequest(), NOBODY) == RequestOptions()
    assert (RequestOptions().timeout_s, RequestOptions().priority, RequestOptions().key) == (None, 5, None)


@pytest.mark.parametrize(
    "request_", [FakeRequest(timeout_us=2_000_000), FakeRequest(parameters=json.dumps({"timeout": 2_000_000}))]
)
def test_tritons_timeout_is_read_over_grpc_and_over_http(request_: FakeRequest) -> None:
    assert RequestOptions.from_triton(request_, NOBODY).timeout_s == 2.0


def test_every_parameter_is_read_and_named_as_documented() -> None:
    given = options(proxy=PROXY, idempotency_key="one", Caller=f"{SECRET} alice", queue_priority=1)
    assert given == RequestOptions(("caller", "idempotency_key", "queue_priority"), None, 1, RequestKey("one", "alice"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"limits": 1}, "limits: got 1; accepted: true"),
        ({"queue_priority": 0}, "queue_priority: got 0; accepted: an integer from 1 to 9"),
        ({"queue_priority": 10}, "queue_priority: got 10"),
        ({"queue_priority": "high"}, "queue_priority: got high"),
        ({"queue_priority": True}, "queue_priority: got True"),
        ({"timeout": -5}, "timeout: got -5; accepted: an integer from 1 up"),
        ({"timeout": 0.5}, "timeout: got 0.5"),
        ({"idempotency_key": ""}, "idempotency_key: got"),
        ({"caller": "alice"}, "caller: got"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict, message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        options(**parameters)


def test_only_this_servers_key_says_that_a_request_was_admitted() -> None:
    admitted = options(run_key="secret", **{ADMITTED: "secret"})
    assert admitted.is_admitted and admitted.names == ()
    for run_key, guess in (("secret", ""), ("secret", "x"), ("secret", 7), ("secret", None), ("", "")):
        guessed = options(run_key=run_key, **{ADMITTED: guess})
        assert not guessed.is_admitted and guessed.names == (ADMITTED,), "refused as an unknown field"
