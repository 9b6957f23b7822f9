"""Run a check that may take minutes in its own thread, so that the supervisor's loop can do its other checks."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "check")


@dataclass
class BackgroundCheck:
    """One check at a time; the next one begins only after the last one has ended."""

    check: Callable[[], None]
    _pool: ThreadPoolExecutor = field(default_factory=_one_thread)
    _running: Future[None] | None = None

    def begin(self) -> None:
        """Begin the check unless one is running. Raises the exception of the last check instead, if it failed.

        Raises RuntimeError if no thread can be started.
        """
        last = self._running
        if last is not None and not last.done():
            return
        self._running = None
        if last is not None:
            last.result()
        try:
            self._running = self._pool.submit(self.check)
        except RuntimeError:
            self._pool = _one_thread()  # the old one keeps the check, and would run it beside the next
            raise

    def leave(self, *, wait: bool) -> None:
        """End the thread. Use `wait` only if the server is dead: else a running check may take minutes."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
