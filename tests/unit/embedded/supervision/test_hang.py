"""A server that crashed and does not end is noticed by its log."""

from pathlib import Path

import pytest

from embedded.supervision.hang import CRASH_S, Crash


@pytest.mark.parametrize(("number", "stuck"), [(6, True), (11, True), (2, False), (15, False)])
def test_a_crash_that_does_not_end_is_seen_and_a_stop_is_none(number: int, stuck: bool, tmp_path: Path) -> None:
    log, now = tmp_path / "server.log", [0.0]
    log.write_bytes(b"I1128 a line\n" * 1000)
    crash = Crash(log, now=lambda: now[0])
    assert not crash.is_stuck()
    with log.open("ab") as appended:
        appended.write(b"terminate called\nSignal (")
        appended.flush()
        assert not crash.is_stuck()
        appended.write(f"{number}) received.\n".encode())
    assert not crash.is_stuck()
    now[0] += CRASH_S
    assert crash.is_stuck() is stuck


def test_a_log_that_somebody_removed_says_nothing(tmp_path: Path) -> None:
    assert not Crash(tmp_path / "none").is_stuck()
