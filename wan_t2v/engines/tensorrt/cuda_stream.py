"""A CUDA stream of an engine's own, kept in order with the stream of whoever calls."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class SideStream:
    """Work put on this stream starts after what the caller's stream holds, and the caller's stream waits for it.

    So memory that the caller frees afterwards is safe: torch gives it out again on the caller's stream, behind the
    wait. On the CPU there is nothing to order and the handle is 0.
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
        """Enqueue on the stream within this context. Memory that the work needs must have been allocated before it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            yield
            caller.wait_stream(self._stream)
