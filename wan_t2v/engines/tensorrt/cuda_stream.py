"""A CUDA stream per engine, ordered with the caller's current stream."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class SideStream:
    """A side stream that starts after the caller's enqueued work; the caller's stream then waits for it.

    So the caller may free memory right afterwards: torch reuses it on the caller's stream, behind that wait.
    On the CPU there is nothing to order and the handle is 0.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The `cudaStream_t`."""
        return 0 if self._stream is None else int(self._stream.cuda_stream)

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        """Order the work that is enqueued within this context. Allocate the memory that it needs before entering."""
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            yield
            caller.wait_stream(self._stream)
