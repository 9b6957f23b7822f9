"""Restart a server whose shared memory is nearly full, at a moment when nobody waits: nothing else gives it back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import SharedMemoryUse

LOOK_S = 10.0  # it looks through all processes of the machine


@dataclass
class MemoryRestart:
    """Looks at one server. `use` is asked for its shared memory; `found` is what it said last, for the event."""

    use: Callable[[], SharedMemoryUse]
    run: RunDirectory
    now: Callable[[], float] = time.monotonic
    found: dict[str, int] = field(default_factory=dict)
    _next_at: float = 0.0

    def is_due(self) -> bool:
        """Whether the regions are nearly full while nothing is under way and nobody drains the server."""
        if self.now() < self._next_at:
            return False
        self._next_at = self.now() + LOOK_S
        use = self.use()
        self.found = {"region_bytes": use.region_bytes, "size_bytes": use.size_bytes}
        if not use.is_full:
            return False
        load = load_of(self.run)
        return load.is_empty and not load.draining
