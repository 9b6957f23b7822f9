"""As many calls as processes: who stops early waits for those alone."""

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pytest

from export.bounded_pool import run_bounded


def test_every_item_is_done_by_at_most_so_many_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1
        return item * item

    with ThreadPoolExecutor(8) as pool:
        done = {item: future.result() for item, future in run_bounded(pool, work, range(50), jobs=3)}
    assert done == {item: item * item for item in range(50)}
    assert most <= 3


def test_after_an_early_stop_nothing_more_begins() -> None:
    begun = []
    with ThreadPoolExecutor(8) as pool:
        for _ in run_bounded(pool, begun.append, range(50), jobs=2):
            break
    assert len(begun) <= 3  # the first, what ran beside it, and what took its place


def _die(item: int) -> None:
    import os

    os._exit(1)


def test_a_pool_that_breaks_fails_every_item_and_loses_none() -> None:
    """TensorRT aborts now and then."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ended = dict(run_bounded(pool, _die, range(5), jobs=2))
    assert ended.keys() == set(range(5))
    for future in ended.values():
        with pytest.raises(BrokenProcessPool):
            future.result()
