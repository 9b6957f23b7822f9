"""What the server counted."""

import tritonclient.grpc

from embedded.server import Server
from tests.waiting import wait_until
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory


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


def executions_when_idle(server: Server, *models: str) -> dict[str, int]:
    """How often these models ran, once no loop runs or waits any more: a caller who left earlier leaves work behind."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:

        def executed() -> dict[str, int]:
            found = client.get_inference_statistics(as_json=True)["model_stats"]
            return {m["name"]: int(m.get("execution_count", 0)) for m in found if m["name"] in models}

        def is_idle() -> bool:
            """Whether nothing runs, and nothing began and ended since the look before."""
            seen.append(executed())
            load = load_of(RunDirectory(server.run_directory))
            return load.in_flight == load.queued == 0 and executed() == seen[-1] == seen[-2]

        seen = [executed()]
        wait_until(is_idle)
        return seen[-1]
