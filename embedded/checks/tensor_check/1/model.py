"""Return the received tensors, converted to numpy and back as in the product's own models."""

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that Triton's Python backend loads."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request."""
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(sent.name(), sent.as_numpy()) for sent in request.inputs()])
            for request in requests
        ]
