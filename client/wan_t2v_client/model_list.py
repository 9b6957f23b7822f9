"""The models of a server, from Triton's statistics."""

from typing import Any


def models_from_statistics(answer: Any) -> list[dict[str, Any]]:
    """List each loaded model of Triton's message with its version and how often it ran."""
    return [
        {
            "name": model.name,
            "version": model.version,
            "requests": model.inference_stats.success.count,
            "executions": model.execution_count,
        }
        for model in answer.model_stats
    ]
