"""Which signals stop a command, and that they do so for no longer than it runs."""

import signal
from collections.abc import Iterator

import pytest

from embedded.process.stop_signals import interrupted_by_signals, stop_signals


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def hang_up(request: pytest.FixtureRequest) -> Iterator[signal.Handlers]:
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_a_command_unless_nohup_started_it(hang_up: signal.Handlers) -> None:
    heeded = [signal.SIGINT, signal.SIGTERM]
    assert stop_signals() == ([*heeded, signal.SIGHUP] if hang_up is signal.SIG_DFL else heeded)


def test_ctrl_c_that_is_ignored_stays_so(hang_up: signal.Handlers) -> None:
    """As in a command that a script put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_they_interrupt_within_the_context_alone(hang_up: signal.Handlers) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with interrupted_by_signals():
        within = {number for number in numbers if signal.getsignal(number) is signal.default_int_handler}
        assert within == set(stop_signals())
    assert [signal.getsignal(number) for number in numbers] == before
