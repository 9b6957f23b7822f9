"""TensorRT plans run in this process, without Triton's TensorRT backend; their arrays stay on the GPU."""

import contextlib
import mmap
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wan_t2v.engines.engine import Array
from wan_t2v.engines.tensorrt.cuda_stream import SideStream
from wan_t2v.engines.tensorrt.profiles import Profile, ShapeRange, profile_for
from wan_t2v.engines.tensorrt.tensorrt_module import plans_command, tensorrt_module

# types that an input or output of a plan can have, by the names of trt.DataType
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "FP8": torch.float8_e4m3fn,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}


class PlanError(RuntimeError):
    """A plan that cannot be loaded or run here; the message has TensorRT's own error and the remedy."""


@dataclass(frozen=True)
class Binding:
    """An input or output of the plan."""

    name: str
    dtype: torch.dtype
    is_input: bool


class TensorRtEngine:
    """A BufferedEngine over one plan.

    It has one execution context per profile. A lock lets one call run at a time, so all contexts share one block of
    activation memory, sized for the largest. `module` is the TensorRT module, by default the first one installed.
    Raises PlanError if the plan does not fit this TensorRT or this GPU.
    """

    def __init__(self, path: Path, *, device: str = "cuda:0", module: Any = None) -> None:
        self._trt = module if module is not None else tensorrt_module()
        self._device = torch.device(device)
        self._log = _log(self._trt)
        self._lock = threading.Lock()
        with _on(self._device):
            self._runtime = self._trt.Runtime(self._log)  # outlives the engine, as TensorRT demands
            self._engine = self._deserialize(path)
            self._bindings = _bindings(self._trt, self._engine)
            self._profiles = _profiles(self._engine, [b.name for b in self._bindings.values() if b.is_input])
            self._stream = SideStream(self._device)
            self._activations = torch.empty(self._engine.device_memory_size_v2, dtype=torch.uint8, device=self._device)
            self._contexts = {profile.index: self._context(profile) for profile in self._profiles}

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Tensor]:
        """Enqueue one run; the answer lies on the GPU, ordered with the caller's current stream.

        Raises ValueError for an unknown or missing name or a wrong type, ShapeError for a shape outside every profile,
        PlanError if TensorRT refuses the run.
        """
        known = [binding.name for binding in self._bindings.values() if not binding.is_input]
        wanted = known if outputs is None else list(outputs)
        if unknown := set(wanted) - set(known):
            raise ValueError(f"unknown outputs {sorted(unknown)}, the plan has {known}")
        arrays = self._on_device(inputs)
        profile = profile_for({name: tuple(array.shape) for name, array in arrays.items()}, self._profiles)
        with self._lock, _on(self._device):
            context = self._contexts[profile.index]
            results = self._bind(context, arrays, buffers or {})
            with self._stream.in_order():
                if not context.execute_async_v3(self._stream.handle):
                    raise self._error("TensorRT refused to run the plan")
        return {name: results[name] for name in wanted}

    def _on_device(self, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        expected = {name: binding.dtype for name, binding in self._bindings.items() if binding.is_input}
        if set(inputs) != set(expected):
            raise ValueError(f"inputs are {sorted(inputs)}, the plan takes {sorted(expected)}")
        arrays = {name: torch.as_tensor(array).to(self._device).contiguous() for name, array in inputs.items()}
        for name, array in arrays.items():
            if array.dtype != expected[name]:
                raise ValueError(f"{name} is {array.dtype}, the plan takes {expected[name]}")
        return arrays

    def _bind(self, context: Any, arrays: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Set input shapes and all addresses in the context. Every output needs memory, requested or not."""
        for name, array in arrays.items():
            if not context.set_input_shape(name, tuple(array.shape)):
                raise self._error(f"TensorRT refused the shape {tuple(array.shape)} of {name}")
        results = {}
        for binding in self._bindings.values():
            if not binding.is_input:
                results[binding.name] = self._output(binding, tuple(context.get_tensor_shape(binding.name)), buffers)
        for name, array in {**arrays, **results}.items():
            context.set_tensor_address(name, array.data_ptr())
        return results

    def _output(self, binding: Binding, shape: tuple[int, ...], buffers: Mapping[str, Tensor]) -> Tensor:
        kept = buffers.get(binding.name)
        if kept is not None and (tuple(kept.shape), kept.dtype, kept.device) == (shape, binding.dtype, self._device):
            return kept
        return torch.empty(shape, dtype=binding.dtype, device=self._device)

    def _deserialize(self, path: Path) -> Any:
        """Deserialize the plan from a memory map: reading the file would add a 28 GB copy of an expert."""
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise PlanError(f"{path} is empty. Build it again: {plans_command(self._trt.__name__)}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._error(
                f"{path} cannot be loaded by {self._trt.__name__} {self._trt.__version__}; a plan fits the TensorRT "
                "version and the kind of GPU that it was built with. Build it on this machine: "
                f"{plans_command(self._trt.__name__)}"
            )
        return engine

    def _context(self, profile: Profile) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._error("TensorRT made no execution context")
        context.set_device_memory(self._activations.data_ptr(), self._activations.numel())
        if not context.set_optimization_profile_async(profile.index, self._stream.handle):
            raise self._error(f"TensorRT refused {profile}")
        return context

    def _error(self, message: str) -> PlanError:
        errors = "; ".join(self._log.errors) or "TensorRT gave no reason"
        self._log.errors.clear()
        return PlanError(f"{message} ({errors})")


def _log(trt: Any) -> Any:
    """Make a TensorRT logger that keeps errors for PlanError. Its base class exists only after the module's import."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return ErrorLog()


def _bindings(trt: Any, engine: Any) -> dict[str, Binding]:
    bindings = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        if dtype not in DTYPES:
            raise PlanError(f"{name} has the type {dtype}; inputs and outputs can be {', '.join(DTYPES)}")
        bindings[name] = Binding(name, DTYPES[dtype], engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    return bindings


def _profiles(engine: Any, inputs: Sequence[str]) -> list[Profile]:
    def shape_range(name: str, index: int) -> ShapeRange:
        fixed = tuple(engine.get_tensor_shape(name))
        if min(fixed, default=0) >= 0:
            return ShapeRange(fixed, fixed, fixed)
        return ShapeRange(*(tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)))

    count = max(1, engine.num_optimization_profiles)
    return [Profile(index, {name: shape_range(name, index) for name in inputs}) for index in range(count)]


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
