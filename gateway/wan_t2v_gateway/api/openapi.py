"""The documented bodies of requests that are read by hand: JSON and a form alike."""

from typing import Any

from wan_t2v_gateway.api.fields import MODEL
from wan_t2v_gateway.api.limits import SOLVERS

_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_FIELDS: dict[str, Any] = {
    "prompt": _TEXT,
    "model": {"type": "string", "enum": [MODEL]},
    "seconds": {**_TEXT, "description": "length; becomes the nearest 4k+1 frames at 16 a second", "example": "1"},
    "size": {**_TEXT, "description": "WIDTHxHEIGHT in pixels", "example": "64x64"},
    "webhook_url": {**_TEXT, "description": "told when the job ends"},
    "negative_prompt": _TEXT,
    **dict.fromkeys(("width", "height", "num_frames", "num_inference_steps", "seed", "fps", "preview_every"), _WHOLE),
    **dict.fromkeys(("guidance_scale", "guidance_scale_2", "flow_shift", "step_cache", "guidance_skip"), _NUMBER),
    "solver": {"type": "string", "enum": [*SOLVERS]},
    "step_profile": {**_TEXT, "description": "exact, or a profile of the server's", "example": "exact"},
}
_SCHEMA = {"type": "object", "required": ["prompt"], "properties": _FIELDS, "additionalProperties": False}


def _body(example: dict[str, Any]) -> dict[str, Any]:
    content = {
        "application/json": {"schema": _SCHEMA, "example": example},
        "multipart/form-data": {"schema": _SCHEMA},
    }
    key = {"name": "Idempotency-Key", "in": "header", "schema": _TEXT, "description": "same key and body: same job"}
    return {"requestBody": {"required": True, "content": content}, "parameters": [key]}


CREATE = _body({"prompt": "a red ball rolls left", "seconds": "1", "size": "64x64"})
PAUSE = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"reason": {**_TEXT, "maxLength": 500, "description": "for those who wait"}},
                    "additionalProperties": False,
                },
                "example": {"reason": "new disks"},
            }
        }
    }
}
REMIX = _body({"prompt": "a blue ball rolls left"})
