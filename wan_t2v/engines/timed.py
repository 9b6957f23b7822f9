"""An engine that logs when it ran, for benchmarks."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wan_t2v.engines.engine import Array, BufferedEngine


class TimedEngine:
    """Passes calls on and appends `start end` to a file, in nanoseconds of the machine's monotonic clock.

    All processes of a machine share this clock, so the intervals of several engines can be compared.
    """

    def __init__(self, engine: BufferedEngine, path: Path) -> None:
        self._engine = engine
        self._file = path.open("a", encoding="ascii")

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run the engine. An engine that fails leaves no interval."""
        started = time.monotonic_ns()
        answer = self._engine(inputs, outputs, buffers=buffers) if buffers else self._engine(inputs, outputs)
        for array in answer.values():
            _wait_for(array)
        self._file.write(f"{started} {time.monotonic_ns()}\n")
        self._file.flush()
        return answer


def _wait_for(array: Any) -> None:
    """Wait until an array is computed: an engine returns a GPU's arrays before that."""
    if getattr(array, "is_cuda", False):
        import torch

        torch.cuda.current_stream(array.device).synchronize()
