"""The fields of a request, by name and type, and how they become Triton's inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray

from wan_t2v_client.errors import RequestRefused

FIELD_TYPES = {
    "prompt": "BYTES",
    "negative_prompt": "BYTES",
    "height": "INT32",
    "width": "INT32",
    "num_frames": "INT32",
    "num_inference_steps": "INT32",
    "guidance_scale": "FP32",
    "guidance_scale_2": "FP32",
    "flow_shift": "FP32",
    "seed": "INT64",
    "fps": "INT32",
    "latents": "FP32",
    "output_type": "BYTES",
    "video_encoding": "BYTES",
    "preview_every": "INT32",
}
_NUMPY = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


def inputs_from_fields(fields: Mapping[str, Any]) -> list[tritonclient.grpc.InferInput]:
    """One input for each field that is not None. Raises TypeError for a name that is no field, RequestRefused."""
    given = {name: value for name, value in fields.items() if value is not None}
    unknown = sorted(given.keys() - FIELD_TYPES.keys())
    if unknown:
        raise TypeError(f"unknown field {unknown[0]!r}; known are {', '.join(FIELD_TYPES)}")
    return [input_from_field(name, value) for name, value in given.items()]


def input_from_field(name: str, value: Any) -> tritonclient.grpc.InferInput:
    """One field as an input. Raises RequestRefused for a value that its type cannot hold."""
    datatype = FIELD_TYPES[name]
    array = _array(name, value, _NUMPY[datatype])
    array = array if name == "latents" else array.reshape(1)
    tensor = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _array(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """The value in the field's type; numpy would wrap an integer that does not fit round to another."""
    try:
        if isinstance(value, str):
            value = value.encode()
        if np.issubdtype(dtype, np.integer) and not np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
            raise OverflowError(f"does not fit {np.dtype(dtype).name}")
        return np.asarray(value, dtype=dtype)
    except (OverflowError, ValueError, TypeError) as error:
        raise RequestRefused(f"{name}: got {value!r}, which cannot be sent ({error})") from None
