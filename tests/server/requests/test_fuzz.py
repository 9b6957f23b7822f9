"""Every named class of bad request through every endpoint once; `make fuzz` sends thousands, and abuses HTTP in more ways."""

import numpy as np
import pytest

from embedded.server import Server
from tests.stress.fuzz.__main__ import fuzzed, inner_models_fuzzed
from tests.stress.fuzz.bad_requests import CLASSES
from tests.stress.fuzz.doors import Refusal
from tests.stress.fuzz.inner_models import INNER_CLASSES
from tests.stress.fuzz.operators_endpoints import is_refused, operators_endpoints_tried
from tests.stress.fuzz.protocol_abuse import ABUSES, abused

# Those that ended 2.51 on its own stack, and one that holds a connection; the others take longer, or gigabytes.
ABUSED = (
    "a form of 5 MB to generate",
    "JSON nested 50,000 deep to infer",
    "520,000 chunks of one byte to generate",
    "half a body, held open",
)


def test_every_class_is_refused_rightly_through_every_endpoint(server: Server) -> None:
    assert len(CLASSES) >= 25
    sent, faults = fuzzed(server, count=4 * len(CLASSES), seed=7)
    assert set(sent) == set(CLASSES) and min(sent.values()) == 4
    assert faults == []


def test_inner_models_refuse_what_goes_round_the_endpoints_and_keep_no_mark_of_it(server: Server) -> None:
    sent, faults = inner_models_fuzzed(server, count=2 * len(INNER_CLASSES), seed=7)
    assert set(sent) == set(INNER_CLASSES)
    assert faults == []


def test_what_is_the_operators_asks_for_the_key(server: Server) -> None:
    tried, open_ones = operators_endpoints_tried(server, np.random.default_rng(7))
    assert tried >= 120
    assert open_ones == []


def test_the_server_survives_what_no_client_sends(server: Server) -> None:
    aftermaths = list(abused(server, ABUSED))
    assert {after.name for after in aftermaths} <= set(ABUSES)
    assert [after.faults for after in aftermaths] == [()] * len(ABUSED)
    assert not any(after.restarted for after in aftermaths), "the stack is deep enough"


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        ("403", "This API is restricted, expecting header 'admin-key'", True),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'admin-key'", True),
        ("200", "", False),
        ("400", "failed to load 'prepare'", False),
        ("UNAVAILABLE", "failed to connect to all addresses", False),
    ],
)
def test_an_endpoint_that_is_open_is_seen(code: str, text: str, refused: bool) -> None:
    assert is_refused(Refusal(code, text)) == refused


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
