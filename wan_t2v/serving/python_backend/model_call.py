"""Calls from one model to another. Only this module builds inference requests and reads their errors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wan_t2v.contract import GRAPHS
from wan_t2v.engines.engine import Array
from wan_t2v.operate.gpu_fault import is_gpu_fault
from wan_t2v.serving.error_tail import STATUS_OF_CODE, split_tail
from wan_t2v.serving.errors import InvalidFieldUpstream, MissingOutput, ModelCallError
from wan_t2v.serving.python_backend.run import report_gpu_fault
from wan_t2v.serving.python_backend.tensors import to_triton

NEWEST_VERSION = -1  # Triton's value for it
# Triton answers INTERNAL when a model cannot take a call at all. With one of these texts, the caller may try again.
_RETRYABLE = (
    "is not ready",
    "is not healthy",
    "Server not ready",
    "is not found",
    "unloaded",
    "Stub process",
    "the health mutex",  # of a process that died while it held it
    "stopped accepting new",
    "Exceeds maximum queue size",
    "Request for unknown model",  # 2.71, for a model that is being reloaded
)


class TritonEngine:
    """An Engine that calls another model through the server, which batches and schedules the calls.

    `read` converts output tensors to arrays. `outputs` are requested by a call that names none, since Triton cannot
    request all of them. `on_cpu` requests outputs in CPU memory, which the response cache needs. `version` is the
    model's version, by default the newest one loaded. `parameters` go with each call.
    """

    def __init__(
        self,
        pb_utils: Any,
        model: str,
        *,
        read: Callable[[Any], Array],
        outputs: Sequence[str] = (),
        on_cpu: bool = False,
        version: int = NEWEST_VERSION,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self._pb_utils = pb_utils
        self._model = model
        self._read = read
        self._on_cpu = on_cpu
        self._outputs = tuple(outputs)
        self._version = version
        self._parameters = dict(parameters or {})

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Call the model. Raises ModelCallError, or its subclass MissingOutput."""
        wanted = self._outputs if outputs is None else outputs
        response = self._respond(inputs, wanted)
        if response.has_error():
            raise self._error(response.error().message(), response.error().code())
        tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
        missing = [name for name in wanted if name not in tensors]
        if missing:
            reason = f"cannot answer at the moment, try again: it answered without {', '.join(missing)}"
            raise MissingOutput(self._model, reason, self._pb_utils.TritonError.UNAVAILABLE)
        return {name: self._read(tensors[name]) for name in wanted}

    def _respond(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Any:
        options: dict[str, Any] = {"parameters": self._parameters} if self._parameters else {}
        if self._on_cpu:
            options["preferred_memory"] = self._pb_utils.PreferredMemory(self._pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        request = self._pb_utils.InferenceRequest(
            model_name=self._model,
            model_version=self._version,
            requested_output_names=list(outputs),
            inputs=[to_triton(self._pb_utils, name, array) for name, array in inputs.items()],
            **options,
        )
        try:
            return request.exec()
        except self._pb_utils.TritonModelException as error:
            raise self._error(str(error), self._pb_utils.TritonError.INTERNAL) from error

    def _error(self, message: str, code: Any) -> ModelCallError:
        message, tail = split_tail(message)
        if tail is not None and tail.field is not None:
            return InvalidFieldUpstream(self._model, message, self._pb_utils.TritonError.INVALID_ARG, field=tail.field)
        if tail is not None:  # 2.51 reports every error of a called model as INTERNAL
            named = (name for name, status in STATUS_OF_CODE.items() if status == tail.status)
            code = getattr(self._pb_utils.TritonError, next(named, "INTERNAL"))
        if self._model in GRAPHS and is_gpu_fault(message):  # other models may quote what a caller wrote
            return ModelCallError(self._model, report_gpu_fault(message), self._pb_utils.TritonError.UNAVAILABLE)
        if any(text in message for text in _RETRYABLE):
            message, code = f"cannot answer at the moment, try again: {message}", self._pb_utils.TritonError.UNAVAILABLE
        return ModelCallError(self._model, message, code)
