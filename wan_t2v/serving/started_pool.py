"""A thread pool whose threads run from the start."""

import threading
from concurrent.futures import ThreadPoolExecutor


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Make a pool and start all of its threads, so that a process without room for them does not start.

    A pool starts a thread at a later call otherwise. If that fails, the call raises and yet stays in the pool, which
    runs it later, for nobody. Raises RuntimeError.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    all_run = threading.Barrier(threads)  # each thread waits for the others: a free one would get the next call too
    try:
        for _ in range(threads):
            pool.submit(all_run.wait)
    except BaseException:
        all_run.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return pool
