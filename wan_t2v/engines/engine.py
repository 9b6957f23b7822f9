"""The one signature that everything that runs a graph has: torch, ONNX Runtime, TensorRT, a Triton call, a fake."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Array = Any  # numpy.ndarray on the CPU, torch.Tensor on a GPU: both speak DLPack


class Engine(Protocol):
    """Runs one graph: named arrays in, named arrays out.

    `outputs` names the wanted outputs; None asks for all. An engine may be called from several threads at once.
    """

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]: ...


class BufferedEngine(Protocol):
    """An Engine in this process, which can write into memory that is already there.

    `buffers` are arrays by output name that nobody reads any more, each of its output's shape and type. The engine may
    put these outputs there instead of allocating; the answer says where they are.
    """

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]: ...
