"""A pool runs all of its threads from the start, or none."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wan_t2v.serving.started_pool import started_pool

NAME = "pool-under-test"


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


def test_all_threads_run_before_the_first_call() -> None:
    with started_pool(3, NAME) as pool:
        assert len(running()) == 3
        assert pool.submit(lambda: 7).result(60) == 7
    assert not running()


def test_a_thread_that_cannot_be_started_fails_the_start_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        started_pool(3, NAME)
    for thread in started:
        thread.join(60)
    assert len(started) == 2 and not running()


def test_a_pool_of_the_standard_library_keeps_a_call_that_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for a pool that starts its threads first."""
    ran: list[str] = []
    with ThreadPoolExecutor(1, NAME) as pool:
        with monkeypatch.context() as without_threads, pytest.raises(RuntimeError):
            without_threads.setattr(threading.Thread, "start", _fail)
            pool.submit(ran.append, "refused")
        pool.submit(ran.append, "accepted").result(60)
    assert ran == ["refused", "accepted"]


def _fail(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
