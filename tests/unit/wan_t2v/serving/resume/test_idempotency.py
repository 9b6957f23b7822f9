"""Whose key it is, only the trusted proxy can say, over gRPC and HTTP alike."""

import pytest

from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.resume.idempotency import VARIABLE, RequestKey, TrustedProxy

SECRET = "0123456789abcdef"
NOBODY, PROXY = TrustedProxy(), TrustedProxy(SECRET)


def test_without_a_key_there_is_none_and_without_a_proxy_it_is_nobodys() -> None:
    assert NOBODY.key_of({}) is None
    assert NOBODY.key_of({"idempotency_key": "one"}) == RequestKey("one", "")
    assert PROXY.key_of({"idempotency_key": "one"}) == RequestKey("one", "")


@pytest.mark.parametrize("spelling", ["caller", "Caller", "CALLER"])
def test_the_proxys_header_names_the_caller_however_it_is_spelled(spelling: str) -> None:
    named = dict(idempotency_key="one", **{spelling: f"{SECRET} alice smith"})
    assert PROXY.key_of(named) == RequestKey("one", "alice smith")


@pytest.mark.parametrize(
    "claim", ["alice", "", " alice", f"{SECRET}", f"{SECRET} ", "0" * 16 + " alice", 7, None, True]
)
@pytest.mark.parametrize("key", [{}, {"idempotency_key": "one"}])
def test_nobody_else_can_claim_to_be_somebody(claim: object, key: dict[str, str]) -> None:
    for proxy in (NOBODY, PROXY):
        with pytest.raises(InvalidField, match="caller: got") as refusal:
            proxy.key_of(dict(caller=claim, **key))
        assert "alice" not in str(refusal.value) and SECRET not in str(refusal.value)


def test_a_body_beside_the_header_is_refused() -> None:
    """Triton keeps both when they are spelled apart, so neither is believed."""
    with pytest.raises(InvalidField, match="one header of the trusted proxy"):
        PROXY.key_of({"idempotency_key": "one", "Caller": f"{SECRET} mallory", "caller": f"{SECRET} alice"})


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidField, match="a name of at most 256 characters"):
        PROXY.key_of({"caller": f"{SECRET} {'x' * 257}"})


def test_callers_do_not_share_seeds() -> None:
    assert RequestKey("one", "alice").seed != RequestKey("one", "bob").seed == RequestKey("one", "bob").seed


def test_the_secret_is_read_from_the_environment_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrustedProxy.of_environment() == NOBODY
    monkeypatch.setenv(VARIABLE, SECRET)
    assert TrustedProxy.of_environment() == PROXY
    assert SECRET not in repr(PROXY)


@pytest.mark.parametrize("secret", ["short", "a secret with spaces in it"])
def test_a_secret_that_could_be_guessed_or_read_wrongly_stops_the_start(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, secret)
    with pytest.raises(ParameterError, match=f"{VARIABLE} is accepted with 16 characters"):
        TrustedProxy.of_environment()
