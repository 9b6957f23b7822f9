"""Run a check that may take minutes in its own thread, so that the supervisor's loop can do its other checks."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass
class BackgroundCheck:
    """One check at a time; the next one begins only after the last one has ended."""

    check: Callable[[], None]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "check"))
    _running: Future[None] | None = None

    def begin(self) -> None:
        """Begin the check unless one is running. Raises the exception of the last check, if it failed."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._running = self._pool.submit(self.check)

    def leave(self, *, wait: bool) -> None:
        """End the thread. Use `wait` only if the server is dead: else a running check may take minutes."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
