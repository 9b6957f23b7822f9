"""A check that fails is told once for each kind of exception; what ends a server on purpose passes."""

from typing import Any

import pytest

from embedded.errors import ServerError
from embedded.supervision.check_failures import CheckFailures


def test_each_check_and_kind_is_told_once() -> None:
    events: list[dict[str, Any]] = []
    failures = CheckFailures(events.append)
    for check, error in [
        ("memory", OSError("first")),
        ("memory", OSError("second")),
        ("memory", RuntimeError("third")),
        ("hang", OSError("fourth")),
    ]:
        with failures.passed_over(check):
            raise error
    told = [(event["check"], event["error"]) for event in events]
    assert told == [("memory", "OSError: first"), ("memory", "RuntimeError: third"), ("hang", "OSError: fourth")]


def test_what_ends_the_server_on_purpose_passes() -> None:
    with pytest.raises(ServerError), CheckFailures(lambda event: None).passed_over("the dead server's end"):
        raise ServerError("it was told to stop")
