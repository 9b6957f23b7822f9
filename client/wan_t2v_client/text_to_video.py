"""One call of the unary door: fields in, a video out."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from wan_t2v_client.connection import Connection
from wan_t2v_client.errors import RequestRefused, client_error

MODEL = "text_to_video"
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
}
_NUMPY = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


@dataclass(frozen=True)
class Generation:
    """What came back: `video` (the MP4's bytes), `frames` (T, H, W, 3) uint8 or `latents` (1, C, F, h, w) float32.

    Those that were not asked for (`output_type`) are None. `metadata` holds the effective settings, the seed, the
    graphs that ran and the milliseconds of each stage.
    """

    video: bytes | None
    frames: NDArray[Any] | None
    latents: NDArray[Any] | None
    metadata: dict[str, Any]


class TextToVideo:
    """A connection to a server. Use it as a context, or call `close`."""

    def __init__(self, connection: Connection | None = None) -> None:
        self._connection = connection or Connection()
        self._client = self._connection.open()

    def __enter__(self) -> "TextToVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def generate(self, prompt: str, *, deadline_s: float | None = None, **fields: Any) -> Generation:
        """Generate a video. `fields` are the request's other fields; those that are None or left out are defaults.

        Raises RequestRefused, Unavailable, DeadlineExceeded or ServerFault.
        """
        given = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
        unknown = sorted(given.keys() - FIELD_TYPES.keys())
        if unknown:
            raise TypeError(f"unknown field {unknown[0]!r}; known are {', '.join(FIELD_TYPES)}")
        inputs = [_input(name, value) for name, value in given.items()]
        try:
            answer = self._client.infer(
                MODEL, inputs, headers=dict(self._connection.headers), client_timeout=deadline_s
            )
        except InferenceServerException as error:
            raise client_error(error) from None
        return _generation(answer)

    def models(self, *, deadline_s: float | None = None) -> list[dict[str, Any]]:
        """Every loaded model with its version and how often it ran."""
        try:
            answer = self._client.get_inference_statistics(
                as_json=True, headers=dict(self._connection.headers), client_timeout=deadline_s
            )
        except InferenceServerException as error:
            raise client_error(error) from None
        return [
            {
                "name": model["name"],
                "version": model["version"],
                "requests": int(model.get("inference_stats", {}).get("success", {}).get("count", 0)),
                "executions": int(model.get("execution_count", 0)),
            }
            for model in answer.get("model_stats", [])
        ]


def _input(name: str, value: Any) -> tritonclient.grpc.InferInput:
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


def _generation(answer: tritonclient.grpc.InferResult) -> Generation:
    video, frames, latents = (answer.as_numpy(name) for name in ("video", "frames", "denoised_latents"))
    return Generation(
        video=video[0] if video.size else None,
        frames=frames if frames.size else None,
        latents=latents if latents.size else None,
        metadata=json.loads(answer.as_numpy("metadata")[0]),
    )
