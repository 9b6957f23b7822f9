"""Do a check that may take minutes in a thread of its own: whoever asks for it must look at other things meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass
class BackgroundCheck:
    """One check at a time, begun anew when the last one is over."""

    check: Callable[[], None]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "check"))
    _running: Future[None] | None = None

    def begin(self) -> None:
        """Begin the check unless one is under way. Raises what the last one raised."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._running = self._pool.submit(self.check)

    def leave(self, *, wait: bool) -> None:
        """Begin no other. Wait for one that is under way only if what it asks is dead: else it may take minutes."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
