"""The streaming endpoint's watch: a thread that keeps the gauges current and sends heartbeats."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory
from wan_t2v.operate.shared_memory import shared_memory_of
from wan_t2v.serving.models.stream_responses import ResponseStream
from wan_t2v.serving.python_backend.metrics import Metrics

LOOK_S = 1.0  # between updates of the gauges, and between checks for due heartbeats
MEMORY_LOOK_S = 10.0


class StreamWatch:
    """Watches the open streams of one process until `close`."""

    def __init__(self, pb_utils: Any, run: RunDirectory, metrics: Metrics) -> None:
        self._pb_utils, self._run, self._metrics = pb_utils, run, metrics
        self._ended, self._changed = threading.Event(), threading.Event()
        self._streams: set[ResponseStream] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def add(self, responses: ResponseStream) -> None:
        """Send heartbeats to this stream from now on."""
        self._streams.add(responses)
        self.look()

    def discard(self, responses: ResponseStream) -> None:
        """Send this stream no more heartbeats."""
        self._streams.discard(responses)

    def look(self) -> None:
        """Update the gauges now, after a change."""
        self._changed.set()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._changed.set()
        self._thread.join()

    def _watch(self) -> None:
        look_at_memory = 0.0
        while not self._ended.is_set():
            self._changed.clear()
            with self._log_faults():
                self._metrics.set_load(load_of(self._run))
            if time.monotonic() >= look_at_memory:  # it scans all processes of the machine
                with self._log_faults():
                    self._metrics.set_shared_memory(shared_memory_of(os.getppid()))
                look_at_memory = time.monotonic() + MEMORY_LOOK_S
            for responses in tuple(self._streams):
                with self._log_faults(), contextlib.suppress(self._pb_utils.TritonModelException):
                    responses.heartbeat()  # suppressed: the caller has left
            self._changed.wait(LOOK_S)

    @contextlib.contextmanager
    def _log_faults(self) -> Iterator[None]:
        """Log an exception, such as that of a folder that is away for a moment. The next round tries again."""
        try:
            yield
        except Exception as error:
            self._pb_utils.Logger.log_warn(f"gauges and heartbeats: {type(error).__name__}: {error}")
