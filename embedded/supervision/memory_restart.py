"""Restart an idle server whose shared memory is nearly full: nothing else frees that memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import SharedMemoryUse

LOOK_S = 10.0  # between checks, which scan all processes of the machine


@dataclass
class MemoryRestart:
    """Memory check of one server. `use` measures its shared memory; `found` has the last result, for the event."""

    use: Callable[[], SharedMemoryUse]
    run: RunDirectory
    now: Callable[[], float] = time.monotonic
    found: dict[str, int] = field(default_factory=dict)
    _next_at: float = 0.0

    def is_due(self) -> bool:
        """Whether the shared memory is nearly full while the server is idle and not draining."""
        if self.now() < self._next_at:
            return False
        self._next_at = self.now() + LOOK_S
        use = self.use()
        self.found = {"region_bytes": use.region_bytes, "size_bytes": use.size_bytes}
        if not use.is_full:
            return False
        load = load_of(self.run)
        return load.is_empty and not load.draining
