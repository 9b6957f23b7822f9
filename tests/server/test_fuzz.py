"""Every named class of bad request through every door once; `make fuzz` sends thousands."""

import pytest

from embedded.server import Server
from tests.fuzz.__main__ import fuzzed
from tests.fuzz.bad_requests import CLASSES
from tests.fuzz.doors import Refusal


def test_every_class_is_refused_rightly_through_every_door(server: Server) -> None:
    assert len(CLASSES) >= 25
    sent, faults = fuzzed(server, count=4 * len(CLASSES), seed=7)
    assert set(sent) == set(CLASSES) and min(sent.values()) == 4
    assert faults == []


@pytest.mark.parametrize(
    ("code", "text", "fair"),
    [
        ("INVALID_ARGUMENT", "height: got 17; accepted: a multiple of 16", True),
        ("INTERNAL", "ValueError: unpack", False),
        ("500", "inference input 'height' data-type is 'FP32', but model expects 'INT32'", True),
        ("", "answered", False),
        ("UNAVAILABLE", "failed to connect", False),
    ],
)
def test_an_unfair_end_is_seen(code: str, text: str, fair: bool) -> None:
    assert Refusal(code, text).is_fair == fair
