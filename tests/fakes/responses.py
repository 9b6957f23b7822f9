"""Answers as Triton sends them."""

from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor


def response(**outputs: bytes | None) -> Any:
    """Texts as they are; None is an output that was not asked for."""
    answer = service_pb2.ModelInferResponse(model_name="text_to_video_stream")
    for name, data in outputs.items():
        output = answer.outputs.add(name=name, datatype="UINT8" if data is None else "BYTES")
        output.shape.append(0 if data is None else 1)
        raw = b"" if data is None else serialize_byte_tensor(np.array([data], dtype=np.object_)).item()
        answer.raw_output_contents.append(raw)
    return answer
