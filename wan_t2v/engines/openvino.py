"""OpenVINO on the CPU: the exported graph in FP32, or in BF16 where the CPU has instructions for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array
from wan_t2v.engines.graph_shapes import GraphShapes
from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, read_manifest


class UnsupportedPrecision(ValueError):
    """A precision for which this CPU has no instructions; OpenVINO would compute in another one without a word."""


class OpenVinoEngine:
    """A BufferedEngine over one ONNX file with its manifest beside it.

    `threads` 0 leaves OpenVINO's own choice. `precision` is what the operators compute in; inputs and outputs stay
    FP32. Raises UnsupportedPrecision, or ManifestError if the manifest does not declare the inputs' shapes.
    """

    def __init__(self, path: Path, *, threads: int = 0, precision: str = "f32") -> None:
        core = openvino.Core()
        check_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # every process would pin itself to the same first cores
        }
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(str(path), "CPU", properties)
        # OpenVINO takes some shapes that the graph does not have, and it does not keep the names of free axes.
        self._shapes = GraphShapes(read_manifest(GraphManifest, path.with_name(GRAPH_MANIFEST)).inputs)
        self._outputs = [output.any_name for output in self._compiled.outputs]

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the graph; outputs that nobody asked for are computed all the same. Raises InvalidField."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        self._shapes.check({name: array.shape for name, array in arrays.items()})
        request = self._compiled.create_infer_request()  # of this call alone, so that it owns its outputs' memory
        for name, kept in (buffers or {}).items():
            request.set_tensor(name, openvino.Tensor(kept, shared_memory=True))
        answers = request.infer(arrays, share_inputs=True, share_outputs=True)
        return {name: answers[name] for name in (outputs if outputs is not None else self._outputs)}


def check_precision(precision: str, capabilities: Sequence[str]) -> None:
    """Refuse a precision that is not among a device's capabilities, as OpenVINO names them."""
    if precision.replace("f32", "fp32").upper() not in capabilities:
        raise UnsupportedPrecision(
            f"inference_precision is {precision!r}, but this CPU has {', '.join(sorted(capabilities))}. "
            "Set it to 'f32', or run on a CPU with AVX-512 BF16 or AMX."
        )
