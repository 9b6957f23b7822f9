"""A pool of processes with as many tasks as processes: what is not begun can still be left out."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_bounded(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its finished future, as they finish, of at most `jobs` calls at a time.

    A ProcessPoolExecutor begins more calls than it has processes, and runs those even after `cancel_futures`. Here a
    caller that stops early waits for the running calls only.
    """
    waiting, running = iter(items), dict[Future[Result], Item]()
    for item in islice(waiting, jobs):
        running[_submitted(pool, function, item)] = item
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            finished = running.pop(future)
            for item in islice(waiting, 1):
                running[_submitted(pool, function, item)] = item
            yield finished, future


def _submitted(pool: Executor, function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Submit a call. One that a broken pool does not take fails like those that it had taken."""
    try:
        return pool.submit(function, item)
    except BrokenExecutor as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed
