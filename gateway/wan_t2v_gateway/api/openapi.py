"""OpenAPI schemas of the request bodies that `body.py` parses, JSON and form, with the server's limits."""

from typing import Any

from fastapi import FastAPI
from wan_t2v_client import Limits
from wan_t2v_client.fields import FIELDS
from wan_t2v_client.limits import FieldLimits

from wan_t2v_gateway.api.fields import MODEL, OFFERED
from wan_t2v_gateway.api.limits import with_defaults

_TEXT = {"type": "string"}
_TYPES = {"BYTES": "string", "FP32": "number"}
_OWN: dict[str, Any] = {
    "model": {"type": "string", "enum": [MODEL]},
    "seconds": {**_TEXT, "description": "length, as the nearest number of frames", "example": "1"},
    "size": {**_TEXT, "description": "WIDTHxHEIGHT in pixels", "example": "64x64"},
    "webhook_url": {**_TEXT, "description": "told when the job ends"},
}
_REQUEST = "VideoRequest"


def _body(example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{_REQUEST}"}
    content = {"application/json": {"schema": schema, "example": example}, "multipart/form-data": {"schema": schema}}
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


def request_schema(limits: Limits | None) -> dict[str, Any]:
    """Make the schema of a request for a video, with ranges and defaults if the server's limits are known."""
    fields = {} if limits is None else limits.fields
    properties = {
        name: {"type": _TYPES.get(FIELDS[name].datatype, "integer"), **_range(fields.get(name))} for name in OFFERED
    }
    schema = {"type": "object", "required": ["prompt"], "additionalProperties": False}
    return {**schema, "properties": {**properties, **_OWN}}


def document_limits(app: FastAPI) -> None:
    """Add the limits that are known at the time of each request to the application's OpenAPI document."""
    static = app.openapi

    def openapi() -> dict[str, Any]:
        document, gateway = static(), getattr(app.state, "gateway", None)
        components = document.get("components", {})
        limits = None
        if gateway is not None and gateway.limits.known is not None:
            limits = with_defaults(gateway.limits.known, gateway.services.settings.field_defaults)
        schemas = {**components.get("schemas", {}), _REQUEST: request_schema(limits)}
        return {**document, "components": {**components, "schemas": schemas}}

    app.openapi = openapi  # type: ignore[method-assign]  # the way of FastAPI's documentation


def _range(limits: FieldLimits | None) -> dict[str, Any]:
    """Convert a field's limits to JSON Schema; what the schema cannot express goes into a description."""
    if limits is None:
        return {}
    multiple = limits.step if limits.step > 1 and limits.minimum == limits.step else None
    words = limits.accepted() if limits.step > 1 or limits.maximum_bytes else ""
    known = {
        "minimum": limits.minimum,
        "exclusiveMinimum": limits.above,
        "maximum": limits.maximum,
        "multipleOf": multiple,
        "enum": list(limits.choices) or None,
        "default": limits.default,
        "description": f"{words} {limits.unit}".strip() or None,
    }
    return {name: value for name, value in known.items() if value is not None}
