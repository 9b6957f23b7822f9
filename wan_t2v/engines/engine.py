"""The call signature that all engines of a graph share: torch, ONNX Runtime, TensorRT, a Triton call, a fake."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Array = Any  # numpy.ndarray on the CPU, torch.Tensor on a GPU: both support DLPack


class Engine(Protocol):
    """Runs one graph: named arrays in, named arrays out.

    `outputs` names the wanted outputs; None asks for all. An engine may be called from several threads at once.
    """

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]: ...


class BufferedEngine(Protocol):
    """An Engine in this process that can write its outputs into existing memory.

    `buffers` maps output names to arrays of the output's shape and type that nobody reads any more. The engine may
    write outputs there instead of allocating. It returns the arrays that it wrote, wherever they are.
    """

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]: ...
