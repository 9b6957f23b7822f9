"""Writing a torch program: a full disk and a signal."""

import io
import signal
from typing import Any

import pytest
import torch

from export import program_file
from tests.unit.export.test_to_torch_program import Twice


class FullDisk(io.BytesIO):
    """A file on a disk that is full after the first kilobyte."""

    def write(self, data: Any) -> int:
        if self.tell() > 1000:
            raise OSError(28, "No space left on device")
        return super().write(data)


class SignalledFile(io.BytesIO):
    """A file during whose writing SIGTERM comes."""

    def write(self, data: Any) -> int:
        handler: Any = signal.getsignal(signal.SIGTERM)
        handler(signal.SIGTERM, None)
        return super().write(data)


@pytest.mark.parametrize(("file", "raised"), [(FullDisk(), OSError), (SignalledFile(), KeyboardInterrupt)])
def test_a_write_that_fails_or_is_interrupted_does_not_end_the_process(
    file: io.BytesIO, raised: type[BaseException]
) -> None:
    """torch's writer aborts on an exception in a write."""
    program = torch.export.export(Twice(), (torch.ones(2, 3),))
    with pytest.raises(raised):
        program_file._save(program, file, "{}")
