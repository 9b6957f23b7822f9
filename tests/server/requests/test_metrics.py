"""What the streaming endpoint did is on Triton's metrics endpoint, by the names in the table."""

import contextlib
import urllib.request

from wan_t2v_client import RequestRefused, TextToVideo

from embedded.server import Server
from tests.server.calls import samples
from tests.server.statistics import executions_when_idle
from wan_t2v.serving.python_backend.metrics import METRICS

SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}


def test_one_finished_one_refused_and_one_cancelled_are_counted(server: Server, client: TextToVideo) -> None:
    client.generate("a red ball", **SMALL)
    before = samples(server)
    client.generate("a red ball", **SMALL)
    with contextlib.suppress(RequestRefused):
        client.generate("a red ball", height=17)
    stream = client.stream("a red ball", num_inference_steps=400)
    next(stream)
    stream.close()
    executions_when_idle(server, "high_noise_expert")
    after = samples(server)

    def rise(name: str, **labels: str) -> float:
        labelled = sorted({"door": "text_to_video_stream", **labels}.items())
        sample = name + "{" + ",".join(f'{key}="{value}"' for key, value in labelled) + "}"
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    assert rise("wan_t2v_generations_ended_total", outcome="finished") == 1
    assert rise("wan_t2v_generations_ended_total", outcome="refused_invalid") == 1
    assert rise("wan_t2v_generations_ended_total", outcome="cancelled") == 1
    assert rise("wan_t2v_generations_admitted_total") == 2, "the refused one got no place"
    assert rise("wan_t2v_frames_total") == 5
    assert rise("wan_t2v_cancel_seconds_count") == 1
    assert rise("wan_t2v_stage_seconds_count", stage="decode") == 1
    steps = sum(rise("wan_t2v_steps_total", expert=f"{name}_noise_expert") for name in ("high", "low"))
    timed = [rise("wan_t2v_step_seconds_count", expert=f"{name}_noise_expert") for name in ("high", "low")]
    assert steps == sum(timed) >= 5
    assert after["wan_t2v_generations_in_flight"] == after["wan_t2v_generations_queued"] == 0


def test_every_family_is_there_with_its_type(server: Server, client: TextToVideo) -> None:
    client.generate("a red ball", **SMALL)
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    for spec in METRICS:
        assert f"# TYPE {spec.name} {spec.kind.lower()}" in text
