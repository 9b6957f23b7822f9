"""Request fields: one table with each field's type and command option, and their encoding as Triton inputs."""

import difflib
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from wan_t2v_client.errors import RequestRefused


class Field(NamedTuple):
    """One field: its type by Triton's name, and its option of the command if it has a `help` text.

    Attributes:
        option: name of the option, if it differs from the field's.
        metavar: placeholder of the value in the command's help, if the field's name is not clear enough.
        array: whether the value is an array of any shape instead of a single value.
    """

    datatype: str
    help: str = ""
    option: str = ""
    metavar: str | None = None
    array: bool = False


# The client's only definition of the fields: `docs/design/request-fields.md`. The command has `--size` for two of them.
FIELDS = {
    "prompt": Field("BYTES"),
    "negative_prompt": Field("BYTES", "what the video should not show"),
    "height": Field("INT32"),
    "width": Field("INT32"),
    "num_frames": Field("INT32", "number of frames, 4k+1", option="--frames"),
    "num_inference_steps": Field("INT32", "denoising steps", option="--steps"),
    "guidance_scale": Field("FP32", "guidance of the high-noise expert"),
    "guidance_scale_2": Field("FP32", "guidance of the low-noise expert"),
    "flow_shift": Field("FP32", "shift of the noise schedule"),
    "solver": Field("BYTES", "unipc, or euler for experts that were distilled to a few steps", metavar="NAME"),
    "step_profile": Field(
        "BYTES", "passes that may be left out: exact, or a name that the server knows", metavar="NAME"
    ),
    "step_cache": Field("FP32", "reuse a step while its velocity changed by less than this share; 0 never"),
    "guidance_skip": Field("FP32", "share of the low-noise steps, the last ones, without a negative pass; 0 none"),
    "seed": Field("INT64", "seed of the starting noise; the same seed gives the same video"),
    "fps": Field("INT32", "frames per second of the MP4"),
    "latents": Field("FP32", array=True),
    "output_type": Field("BYTES"),
    "video_encoding": Field("BYTES"),
    "preview_every": Field("INT32"),
}
# Parameters of Triton's request: they affect when a video is made and whether it resumes, but not its content.
PARAMETERS = {
    "idempotency_key": Field(
        "BYTES", "key of the request; the same key resumes an interrupted video, where the server can", metavar="TEXT"
    ),
    "queue_priority": Field("INT64", "1 goes first, 9 last (default: 5)"),
}
_NUMPY = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_CHOICES = {bool: "bool_param", int: "int64_param", str: "string_param"}  # of Triton's message InferParameter
_LARGEST_FP32 = float(np.finfo(np.float32).max)  # as a float: numpy 2 would compare in single precision
_LONGEST_NAME = 64
_MOST_QUOTED = 200


class Tensor(NamedTuple):
    """An input as it is sent: name, type by Triton's name, and values."""

    name: str
    datatype: str
    array: NDArray[Any]

    def content(self) -> bytes:
        """Return the values in Triton's raw form."""
        return bytes(serialize_byte_tensor(self.array).item() if self.datatype == "BYTES" else self.array.tobytes())


class EncodedRequest(NamedTuple):
    """A request as it is sent: inputs and parameters."""

    inputs: list[Tensor]
    parameters: Mapping[str, bool | int | str]

    def message(self, model: str, *, timeout_us: int | None, **parameters: bool) -> Any:
        """Make the protobuf message for a model; `parameters` are added to the request's own.

        tritonclient's own functions would refuse parameters that are Triton's, which differ between its releases.
        """
        message = service_pb2.ModelInferRequest(model_name=model)
        for tensor in self.inputs:
            message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
            message.raw_input_contents.append(tensor.content())
        timeout = {} if timeout_us is None else {"timeout": timeout_us}
        for name, value in {**self.parameters, **parameters, **timeout}.items():
            setattr(message.parameters[name], _CHOICES[type(value)], value)
        return message


def encode_fields(fields: Mapping[str, Any]) -> EncodedRequest:
    """Encode each field that is not None as an input or a parameter.

    Raises TypeError for a name that is not a field, RequestRefused for a value that its type cannot hold.
    """
    parameters = {name: _parameter(name, fields[name]) for name in PARAMETERS if fields.get(name) is not None}
    return EncodedRequest(
        _inputs({name: value for name, value in fields.items() if name not in PARAMETERS}), parameters
    )


def _inputs(fields: Mapping[str, Any]) -> list[Tensor]:
    given = {name: value for name, value in fields.items() if value is not None}
    unknown = sorted(given.keys() - FIELDS.keys())
    if unknown:
        raise TypeError(f"{unknown_field(unknown[0])}; known are {', '.join((*FIELDS, *PARAMETERS))}")
    return [input_from_field(name, value) for name, value in given.items()]


def unknown_field(name: str) -> str:
    """Make the message for a name that is not a field, with the nearest field."""
    if len(name) > _LONGEST_NAME:  # comparing it would take long
        return f"unknown field {name[:_LONGEST_NAME]!r}..."
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"unknown field {name!r}" + (f" (is {near[0]} meant?)" if near else "")


def _parameter(name: str, value: Any) -> int | str:
    """Convert a parameter's value to the type that is sent. Raises RequestRefused for one that its type cannot hold."""
    try:
        plain = plain_value(PARAMETERS[name].datatype, value)
        return plain.decode() if isinstance(plain, bytes) else int(plain)
    except (OverflowError, ValueError, TypeError) as error:
        raise not_sendable(name, value, error) from None


def not_sendable(name: str, value: Any, error: Exception) -> RequestRefused:
    """Make the error for a value that the field's type cannot hold."""
    shown = repr(value)
    shown = shown if len(shown) <= _MOST_QUOTED else f"{shown[:_MOST_QUOTED]}..."
    return RequestRefused(f"{name}: got {shown}, which cannot be sent ({str(error)[:_MOST_QUOTED]})")


def input_from_field(name: str, value: Any) -> Tensor:
    """Make one field's input. Raises RequestRefused for a value that its type cannot hold."""
    datatype = FIELDS[name].datatype
    try:
        plain = value if FIELDS[name].array else [plain_value(datatype, value)]
        array = np.asarray(plain, dtype=_NUMPY[datatype])
    except (OverflowError, ValueError, TypeError) as error:
        raise not_sendable(name, value, error) from None
    return Tensor(name, datatype, array)


def plain_value(datatype: str, value: Any) -> bytes | int | float:
    """Convert a value to the Python type of a Triton datatype.

    Raises OverflowError, ValueError or TypeError for a value that numpy would change silently: wrap a large integer,
    drop a fraction, or parse a number in a text.
    """
    if datatype == "BYTES":
        if not isinstance(value, str | bytes):
            raise TypeError("a text is needed")
        return value.encode() if isinstance(value, str) else bytes(value)  # a subclass would be sent as its repr
    if isinstance(value, bool | str | bytes):
        raise TypeError("a number is needed")
    if datatype == "FP32":
        number = float(value)
        if math.isfinite(number) and abs(number) > _LARGEST_FP32:
            raise OverflowError("does not fit float32")
        return number
    whole, bits = operator.index(value), int(datatype.removeprefix("INT"))
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise OverflowError(f"does not fit int{bits}")
    return whole
