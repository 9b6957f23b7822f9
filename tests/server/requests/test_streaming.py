"""The streaming endpoint: the same bytes as the unary one, news of every step, and work that stops with its caller."""

import base64
import io
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wan_t2v_client import DeadlineExceeded, Generation, Heartbeat, Progress, RequestRefused, TextToVideo, Unavailable
from wan_t2v_client.cli.main import main
from wan_t2v_client.deadline import Deadline

from embedded.server import Server
from tests.server.calls import LARGEST
from tests.server.statistics import executions_when_idle
from wan_t2v.serving.models.stream_responses import HEARTBEAT_S

EXPERTS = ("high_noise_expert", "low_noise_expert")
SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4, "seed": 5}
LONG = {"num_inference_steps": 400, "seed": 5}
LONGER = {"num_inference_steps": 1000, "height": 128, "width": 128, "seed": 5}  # than two heartbeats, anywhere


@pytest.mark.parametrize("output_type", ["mp4", "frames", "latents"])
def test_both_endpoints_give_the_same(client: TextToVideo, output_type: str) -> None:
    unary = client.generate_unary("a red ball", output_type=output_type, **SMALL)
    streamed = client.generate("a red ball", output_type=output_type, **SMALL)
    assert streamed.video == unary.video
    for ours, theirs in ((streamed.frames, unary.frames), (streamed.latents, unary.latents)):
        assert (ours is None) == (theirs is None)
        assert ours is None or np.array_equal(ours, theirs)
    timed = {"stages_ms"}
    assert streamed.metadata.keys() == unary.metadata.keys()
    assert {k: v for k, v in streamed.metadata.items() if k not in timed} == {
        k: v for k, v in unary.metadata.items() if k not in timed
    }


def test_every_step_is_told_in_order_with_its_expert(client: TextToVideo) -> None:
    told: list[Progress] = []
    generation = client.generate("a red ball", on_progress=told.append, **SMALL)
    assert [progress.step for progress in told] == [1, 2, 3, 4]
    assert [progress.timestep for progress in told] == generation.metadata["timesteps"]
    assert {progress.expert for progress in told} == set(EXPERTS)
    assert told[-1].left_s == 0 and all(progress.step_s > 0 for progress in told)
    assert all(progress.preview is None for progress in told)


def test_previews_come_as_often_as_asked_and_are_pictures_of_the_latents(client: TextToVideo) -> None:
    told: list[Progress] = []
    client.generate("a red ball", on_progress=told.append, preview_every=2, **SMALL)
    assert [progress.step for progress in told if progress.preview] == [2, 4]
    with Image.open(io.BytesIO(told[-1].preview or b"")) as picture:
        assert picture.size == (48 // 8, 32 // 8)


def test_who_stops_reading_stops_the_work(server: Server, client: TextToVideo) -> None:
    before = executions_when_idle(server, *EXPERTS)
    stream = client.stream("a red ball", **LONG)
    seen = [next(stream) for _ in range(3)]
    stream.close()
    after = executions_when_idle(server, *EXPERTS)
    assert all(isinstance(told, Progress) for told in seen)
    passes = sum(after.values()) - sum(before.values())
    assert passes < 2 * LONG["num_inference_steps"] / 4, "the rest of the loop did not run"


def test_who_waits_is_told_so_and_how_many_go_first(client: TextToVideo) -> None:
    with closing(client.stream("a red ball", **LONGER)) as long:
        next(long)
        heard: list[Heartbeat] = []
        waiting = client.stream("a red ball", on_heartbeat=heard.append, **SMALL)
        with closing(waiting), ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, waiting)
            while len(heard) < 2:
                next(long)
            long.close()
            assert isinstance(first.result(), Progress)
    assert [(beat.stage, beat.ahead) for beat in heard[:2]] == [("queue", 1)] * 2
    assert heard[1].stage_s >= HEARTBEAT_S


def test_a_deadline_stops_the_work(server: Server, client: TextToVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deadline, "timeout_us", lambda self: None)  # told beforehand the server would refuse it
    before = sum(executions_when_idle(server, *EXPERTS).values())
    passes = 0
    for deadline_s in (1.0, 4.0, 16.0):  # a busy machine may need more than the first to come to a step
        if passes == 0:
            with pytest.raises(DeadlineExceeded):
                client.generate("a red ball", deadline_s=deadline_s, **LONG)
            passes = sum(executions_when_idle(server, *EXPERTS).values()) - before
    assert 0 < passes < 2 * LONG["num_inference_steps"]


@pytest.mark.parametrize("door", ["generate", "generate_unary"])
def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(
    door: str, server: Server, client: TextToVideo
) -> None:
    client.generate("a red ball", **SMALL)  # so that the seconds of a step are known
    before = executions_when_idle(server, *EXPERTS)
    with pytest.raises(DeadlineExceeded, match="cannot be met: 90 steps of 256x256x81"):
        getattr(client, door)("a red ball", deadline_s=20.0, **LARGEST)
    assert executions_when_idle(server, *EXPERTS) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 100}, "height: got 100; accepted"),
        ({"preview_every": -1}, "preview_every: got -1; accepted"),
        ({"prompt": ""}, "prompt: got an empty text"),
        ({"height": 512, "width": 512}, "height: got 512"),
    ],
)
def test_bad_fields_are_refused_as_at_the_unary_endpoint(client: TextToVideo, fields: dict, message: str) -> None:
    asked = {"prompt": "x", **fields}
    with pytest.raises(RequestRefused, match=message):
        client.generate(asked.pop("prompt"), **asked)


def test_eight_at_once_of_three_sizes_give_the_bytes_that_each_gives_alone(client: TextToVideo) -> None:
    sizes = [(32, 48, 5), (48, 32, 9), (64, 64, 1)]
    asked = [
        {**SMALL, "height": h, "width": w, "num_frames": f, "seed": index} for index, (h, w, f) in enumerate(sizes * 3)
    ][:8]
    alone = [client.generate("a red ball", **fields).video for fields in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda fields: client.generate("a red ball", **fields).video, asked))
    assert together == alone


def test_more_than_the_endpoint_holds_are_refused_at_once_and_nobody_else_is_harmed(client: TextToVideo) -> None:
    """The embedded config lets 1 run and 16 wait; of 30 at once some must go, and all others end well."""

    def outcome(index: int) -> str:
        started = time.monotonic()
        try:
            client.generate("a red ball", **{**SMALL, "num_inference_steps": 12, "seed": index})
        except Unavailable as error:
            assert "under way (limit 1)" in str(error) and "try again" in str(error)
            return "refused at once" if time.monotonic() - started < 30 else "refused late"
        return "done"

    with ThreadPoolExecutor(30) as pool:
        outcomes = list(pool.map(outcome, range(30)))
    assert outcomes.count("done") >= 16
    assert outcomes.count("done") + outcomes.count("refused at once") == 30
    assert outcomes.count("refused at once") >= 1
    assert client.generate("a red ball", **SMALL).video


def test_a_stream_over_http_is_read_by_curl(server: Server) -> None:
    """Server-sent events: a line of JSON for each step, pictures and the video in base64."""
    url = f"{server.http_url}/v2/models/text_to_video_stream/generate_stream"
    body = json.dumps({"prompt": "a red ball", "video_encoding": "base64", "preview_every": 2, **SMALL})
    answer = subprocess.run(["curl", "-sfN", url, "-d", body], capture_output=True, check=True, text=True).stdout
    events = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line.startswith("data: ")]
    assert [json.loads(event["progress"])["step"] for event in events if "progress" in event] == [1, 2, 3, 4]
    previews = [base64.b64decode(event["preview"], validate=True) for event in events if "preview" in event]
    assert [preview[:8] for preview in previews] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert json.loads(events[-1]["metadata"])["settings"]["seed"] == SMALL["seed"]
    assert base64.b64decode(events[-1]["video"], validate=True)[4:8] == b"ftyp"


def test_the_command_keeps_previews_and_tells_the_result(server: Server, tmp_path: Path, capsys) -> None:
    out, previews = tmp_path / "ball.mp4", tmp_path / "previews"
    options = ["--size", "32x48", "--frames", "5", "--steps", "4", "--seed", "5"]
    shown = ["--previews", str(previews), "--preview-every", "2", "--url", server.grpc_url]
    assert main(["generate", "a red ball", "--out", str(out), *options, *shown]) == 0
    assert sorted(path.name for path in previews.iterdir()) == ["step-0002.png", "step-0004.png"]
    assert "5 frames of 32x48" in capsys.readouterr().out
    assert out.read_bytes()[4:8] == b"ftyp"


def test_an_exception_in_the_callers_own_code_stops_the_work_and_comes_through(
    server: Server, client: TextToVideo
) -> None:
    before = executions_when_idle(server, *EXPERTS)

    def give_up(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.generate("a red ball", on_progress=give_up, **LONG)
    passes = sum(executions_when_idle(server, *EXPERTS).values()) - sum(before.values())
    assert passes < 2 * LONG["num_inference_steps"] / 4


def test_a_reader_who_pauses_loses_nothing(server: Server, client: TextToVideo) -> None:
    stream = client.stream("a red ball", **SMALL)
    told = [next(stream)]
    executions_when_idle(server, *EXPERTS)  # until the server has sent everything
    told += list(stream)
    assert isinstance(told[-1], Generation)
    assert [progress.step for progress in told[:-1]] == [1, 2, 3, 4]
