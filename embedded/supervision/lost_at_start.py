"""Notice a start that will never end: a Python process died while it loaded its model, and Triton waits for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wan_t2v.operate.processes import stubs

# Triton ends by itself after a model that says why it failed; it does so once the others are loaded.
LOST_S = 5.0


@dataclass
class LostAtStart:
    """Looks at one server that is not ready yet. `first_error` reads what its log says of a failure."""

    server_pid: int
    first_error: Callable[[], str | None]
    now: Callable[[], float] = time.monotonic
    _seen: dict[int, str] = field(default_factory=dict)
    _lost_at: float | None = None

    def model(self) -> str | None:
        """Look once more. The model whose process is gone for so long that nothing will come of it, or None."""
        living = {stub.pid: stub.model for stub in stubs(self.server_pid)}
        lost = [model for pid, model in self._seen.items() if pid not in living]
        self._seen |= living
        if not lost or self.first_error() is not None:
            return None
        if self._lost_at is None:
            self._lost_at = self.now()
        return lost[0] if self.now() - self._lost_at >= LOST_S else None
