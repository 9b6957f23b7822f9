"""TensorRT as far as the engine uses it, without a GPU: a plan is JSON, and running it doubles each input.

It reads and writes at the addresses that it was given, so a wrong binding shows in the numbers.
"""

import ctypes
import enum
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wan_t2v.engines.tensorrt.tensorrt_plan import DTYPES

__version__ = "0.fake"


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    def log(self, severity: "ILogger.Severity", message: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT64, FP4 = range(5)


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, USER_MANAGED = range(2)


def plan(
    path: Path,
    tensors: Mapping[str, tuple[str, list[int]]],
    profiles: list[dict[str, list[list[int]]]] | None = None,
    *,
    outputs: Mapping[str, str] | None = None,
) -> Path:
    """Write a plan: inputs by name to (type, shape with -1 for free axes), and for each profile min, opt and max.

    `outputs` names for each output the input that it is twice of; by default `out_<name>` is of each input.
    """
    doubled = outputs or {f"out_{name}": name for name in tensors}
    path.write_text(json.dumps({"tensors": tensors, "profiles": profiles or [], "outputs": doubled}))
    return path


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized: Any) -> "Engine | None":
        try:
            return Engine(json.loads(bytes(memoryview(serialized))), self.logger)
        except ValueError:
            self.logger.log(ILogger.Severity.WARNING, "only a warning")
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion magicTag failed")
            return None


class Engine:
    device_memory_size_v2 = 1024

    def __init__(self, described: dict[str, Any], logger: ILogger) -> None:
        self.inputs: dict[str, Any] = described["tensors"]
        self.outputs: dict[str, str] = described["outputs"]
        self.profiles: list[dict[str, Any]] = described["profiles"]
        self.logger = logger
        self.contexts: list[Context] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return self.device_memory_size_v2 - index

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.inputs[self.outputs.get(name, name)][0]]

    def get_tensor_shape(self, name: str) -> list[int]:
        shape: list[int] = self.inputs[self.outputs.get(name, name)][1]
        return shape

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return self.profiles[index][name]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> "Context":
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.memory: tuple[int, int] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs = 0
        self.refuses = False

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[self.engine.outputs.get(name, name)]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory is not None and self.memory[1] >= self.engine.device_memory_size_v2
        if self.refuses:
            self.engine.logger.log(ILogger.Severity.ERROR, "out of memory")
            return False
        time.sleep(0.001)  # lets another thread in, as a real run does
        for output, source in self.engine.outputs.items():
            torch.mul(_memory_of(self, source), 2, out=_memory_of(self, output))
        self.runs += 1
        return True


def _memory_of(context: Context, name: str) -> torch.Tensor:
    """What is at the address of an input or output."""
    shape, dtype = context.get_tensor_shape(name), DTYPES[context.engine.get_tensor_dtype(name).name]
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(context.addresses[name])
    return torch.frombuffer(memory, dtype=dtype).view(shape)
