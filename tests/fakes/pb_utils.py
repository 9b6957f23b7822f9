"""Stand-ins that behave: engines with known answers, and a pb_utils that keeps what it is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass
class FakeExpert:
    """An Expert whose velocity is a constant; it keeps the timesteps and embeddings it was called with."""

    velocity: float
    calls: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, latents: Tensor, timestep: int, text_embeddings: Tensor) -> Tensor:
        self.calls.append((timestep, float(text_embeddings.mean())))
        return torch.full_like(latents, self.velocity) * float(text_embeddings.mean())


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name: str, tensor: Any) -> "FakeTensor":
        """Takes a tensor or a capsule, as Triton does."""
        return cls(name, tensor if isinstance(tensor, Tensor) else torch.utils.dlpack.from_dlpack(tensor))

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return np.asarray(self._array)

    def array(self) -> Any:
        """As numpy, which has no BF16: that stays torch's."""
        return self._array if getattr(self._array, "dtype", None) == torch.bfloat16 else self.as_numpy()

    def is_cpu(self) -> bool:
        return True

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def to_dlpack(self) -> Any:
        return torch.utils.dlpack.to_dlpack(torch.as_tensor(self._array))


class FakeTritonError:
    INVALID_ARG, INTERNAL, UNAVAILABLE, CANCELLED = "INVALID_ARG", "INTERNAL", "UNAVAILABLE", "CANCELLED"
    NOT_FOUND, ALREADY_EXISTS, UNSUPPORTED = "NOT_FOUND", "ALREADY_EXISTS", "UNSUPPORTED"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


@dataclass
class FakeResponse:
    tensors: Sequence[FakeTensor] = ()
    failure: FakeTritonError | None = None

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> FakeTritonError | None:
        return self.failure

    def output_tensors(self) -> Sequence[FakeTensor]:
        return self.tensors


class FakeRequest:
    """A request to a model."""

    def __init__(self, *, parameters: str = "", cancelled: bool = False, timeout_us: int = 0, **inputs: Any) -> None:
        self._inputs = [FakeTensor(name, _array(value)) for name, value in inputs.items()]
        self._parameters = parameters
        self._cancelled = cancelled
        self._timeout_us = timeout_us

    def inputs(self) -> list[FakeTensor]:
        return self._inputs

    def parameters(self) -> str:
        return self._parameters

    def is_cancelled(self) -> bool:
        return self._cancelled

    def timeout(self) -> int:
        return self._timeout_us


def _array(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
    return value


class FakeMetricFamily:
    """A family that keeps its metrics' values, by labels."""

    COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"
    families: ClassVar[dict[str, "FakeMetricFamily"]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.values: dict[str, float] = {}
        self.families[name] = self

    def Metric(self, labels: dict[str, str], buckets: Sequence[float] = ()) -> Any:
        family, key = self, str(labels)

        class Metric:
            def increment(self, by: float) -> None:
                family.values[key] = family.values.get(key, 0.0) + by

            def set(self, value: float) -> None:
                family.values[key] = value

            observe = increment

        return Metric()


class FakePbUtils:
    """What the package uses of triton_python_backend_utils; `answer(model, inputs, outputs)` is the server."""

    Tensor = FakeTensor
    TritonError = FakeTritonError
    MetricFamily = FakeMetricFamily
    TRITONSERVER_MEMORY_CPU = 0
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    class TritonModelException(Exception):
        pass

    def __init__(
        self, answer: Callable[[str, Mapping[str, np.ndarray], Sequence[str]], FakeResponse] | None = None
    ) -> None:
        self.logged: list[str] = []
        self.called: list[str] = []
        self.versions: list[int] = []
        outer = self

        class Logger:
            @staticmethod
            def log_error(message: str) -> None:
                outer.logged.append(message)

            log_warn = log_error

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: list[str],
                inputs: list[FakeTensor],
                model_version: int = -1,
                **_: Any,
            ) -> None:
                self.version = model_version
                self.model, self.outputs = model_name, requested_output_names
                self.inputs = {tensor.name(): tensor.array() for tensor in inputs}

            def exec(self) -> FakeResponse:
                outer.called.append(self.model)
                outer.versions.append(self.version)
                assert answer is not None
                return answer(self.model, self.inputs, self.outputs)

        self.Logger = Logger
        self.InferenceRequest = InferenceRequest

    @staticmethod
    def PreferredMemory(kind: int, device: int) -> tuple[int, int]:
        return kind, device

    @staticmethod
    def InferenceResponse(
        output_tensors: Sequence[FakeTensor] = (), error: FakeTritonError | None = None
    ) -> FakeResponse:
        return FakeResponse(output_tensors, error)
