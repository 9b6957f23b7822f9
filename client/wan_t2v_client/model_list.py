"""The models of a server, from Triton's statistics."""

from collections.abc import Mapping
from typing import Any


def models_from_statistics(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List each loaded model with its version and how often it ran."""
    return [
        {
            "name": model["name"],
            "version": model["version"],
            "requests": int(model.get("inference_stats", {}).get("success", {}).get("count", 0)),
            "executions": int(model.get("execution_count", 0)),
        }
        for model in answer.get("model_stats", [])
    ]
