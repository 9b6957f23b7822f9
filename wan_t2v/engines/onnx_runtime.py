"""ONNX Runtime on the CPU: the embedded default, executing the file that a TensorRT plan is built from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array


class OnnxRuntimeEngine:
    """An Engine over one ONNX file. `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin take the cores away from the engines' other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph; outputs that nobody asked for are not computed."""
        names = list(outputs) if outputs is not None else self._outputs
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        return dict(zip(names, self._session.run(names, arrays), strict=True))
