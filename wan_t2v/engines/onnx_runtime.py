"""ONNX Runtime on the CPU: the embedded default, executing the file that a TensorRT plan is built from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array
from wan_t2v.engines.graph_shapes import GraphShapes


class OnnxRuntimeEngine:
    """A BufferedEngine over one ONNX file. `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin take the cores away from the engines' other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._shapes = GraphShapes({put.name: put.shape for put in self._session.get_inputs()})
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the graph; outputs that are not requested are not computed. Raises InvalidField for a wrong shape."""
        names = list(outputs) if outputs is not None else self._outputs
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        self._shapes.check({name: array.shape for name, array in arrays.items()})
        if buffers:
            return self._run_into(arrays, names, buffers)
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def _run_into(
        self, arrays: Mapping[str, NDArray[Any]], names: Sequence[str], buffers: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        binding = self._session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            if name in buffers:
                kept = buffers[name]
                binding.bind_output(name, "cpu", 0, kept.dtype, kept.shape, kept.ctypes.data)
            else:
                binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        computed = dict(zip(names, binding.get_outputs(), strict=True))
        return {name: buffers[name] if name in buffers else computed[name].numpy() for name in names}
