"""A check in the background: never two at a time, never in the way, and its errors are not lost."""

import threading

import pytest

from embedded.supervision.background_check import BackgroundCheck


def test_nobody_waits_for_a_check_and_no_second_one_begins_beside_it() -> None:
    begun, go_on, done = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    def check() -> None:
        begun.release()
        go_on.wait()
        done.release()

    checking = BackgroundCheck(check)
    checking.begin()
    begun.acquire()
    checking.begin()  # would not return if it waited
    assert not begun.acquire(blocking=False)
    go_on.set()
    done.acquire()
    while not begun.acquire(timeout=0.01):  # the thread says that it is done a moment later
        checking.begin()
    checking.leave(wait=True)


def test_what_a_check_raised_is_raised_to_whoever_begins_the_next() -> None:
    def check() -> None:
        raise ValueError("of the check")

    checking = BackgroundCheck(check)
    with pytest.raises(ValueError, match="of the check"):
        while True:
            checking.begin()
