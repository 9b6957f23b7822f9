"""The limits that a fake server publishes: those of the embedded one with wan-mini."""

import json
from typing import Any

from tritonclient.grpc import service_pb2

from tests.fakes.responses import response
from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.field_checks.sizes import ServedSizes
from wan_t2v.serving.published_limits import limits_document
from wan_t2v.shapes import LatentGrid, VideoShape
from wan_t2v.step_profiles.profile import StepProfile

_GRID = LatentGrid(channels=16, time_stride=4, space_stride=8, patch=2)
_FACTS = ModelFacts(_GRID, (), (), 0.875, 1000, {}, text_length=64, text_dim=64)
_DEFAULTS = ServingDefaults(64, 64, 17, 40, 4.0, 3.0, 12.0, 16, "", {"fast": StepProfile(step_cache=0.1)})
_LARGEST = VideoShape(81, 256, 256)
_OLDER = "INVALID_ARGUMENT: limits: got an unknown field; accepted: prompt, height."


def published(*served: VideoShape, largest: VideoShape = _LARGEST) -> dict[str, Any]:
    """What a server with these sizes publishes."""
    sizes = ServedSizes(largest, served, token_passes=10**7 if served else 10**6)
    document = limits_document(defaults=_DEFAULTS, facts=_FACTS, served=sizes)
    return {**document, "requests": {"in_flight": 1, "queued": 16}}


def is_question(request: Any) -> bool:
    """Whether a call of the streaming endpoint asks for the limits."""
    return "limits" in request.parameters


def answer(document: dict[str, Any] | None) -> Any:
    """The one response to it; a server without limits does not know the question."""
    if document is None:
        return service_pb2.ModelStreamInferResponse(error_message=_OLDER)
    return service_pb2.ModelStreamInferResponse(infer_response=response(limits=json.dumps(document).encode()))
