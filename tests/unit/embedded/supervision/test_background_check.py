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


def test_what_a_check_raised_is_raised_once_and_the_next_one_begins() -> None:
    checks = iter([ValueError("of the check"), None])
    ended = threading.Event()

    def check() -> None:
        if error := next(checks):
            raise error
        ended.set()

    checking = BackgroundCheck(check)
    with pytest.raises(ValueError, match="of the check"):
        while True:
            checking.begin()
    checking.begin()
    assert ended.wait(60)
    checking.leave(wait=True)


def test_a_check_for_which_no_thread_can_be_started_is_not_done_later_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks: list[int] = []
    checking = BackgroundCheck(lambda: checks.append(1))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                checking.begin()
    checking.begin()
    checking._pool.shutdown(wait=True)
    assert checks == [1]


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
