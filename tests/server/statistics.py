"""What the server counted."""

import time

import tritonclient.grpc


def text_cache_hits(url: str) -> int:
    """How often the text encoder's answers came from the response cache so far."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        statistics = client.get_inference_statistics("text_encoder", as_json=True)
    return int(statistics["model_stats"][0]["inference_stats"]["cache_hit"].get("count", 0))


def executions(url: str, model: str) -> int:
    """How often a model ran so far."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        (found,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(found.get("execution_count", 0))


def executions_when_idle(url: str, *models: str) -> dict[str, int]:
    """How often these models ran, once nothing runs any more: a caller who left earlier leaves work behind."""
    with tritonclient.grpc.InferenceServerClient(url) as client:

        def executed() -> dict[str, int]:
            found = client.get_inference_statistics(as_json=True)["model_stats"]
            return {m["name"]: int(m.get("execution_count", 0)) for m in found if m["name"] in models}

        before, now = None, executed()
        while now != before:
            time.sleep(0.4)
            before, now = now, executed()
        return now
