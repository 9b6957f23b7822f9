"""The end of reading an engine's output, which may lie in memory that another process gets next."""

import torch
from torch import Tensor

from wan_t2v.engines.engine import Array


def wait_for_reads(output: Array) -> None:
    """Wait until the GPU has done what was enqueued to read an output. Nothing is waited for on a CPU.

    Call it before the last reference is dropped. An answer of another model goes back to Triton's memory pool at that
    moment, and Triton does not know this process's stream: the next answer could be written over one still being read.
    """
    if isinstance(output, Tensor) and output.is_cuda:
        torch.cuda.current_stream(output.device).synchronize()
