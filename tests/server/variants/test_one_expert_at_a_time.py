"""With `expert_residency: one_at_a_time` the experts are swapped on a real server, and nothing else changes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from wan_t2v_client import Connection, Generation, Heartbeat, Progress, TextToVideo, Unavailable

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.waiting import wait_until
from wan_t2v.operate.load import load_of
from wan_t2v.operate.run_directory import RunDirectory

REQUEST = {"prompt": "a red ball rolls left", "seed": 7, "num_inference_steps": 4, "num_frames": 5,
           "height": 64, "width": 64}  # fmt: skip
HIGH, LOW = "high_noise_expert", "low_noise_expert"
EXPERTS = {HIGH, LOW}
LOOPS = ("denoiser", "text_to_video_stream")
IDLE_LIMIT_S = 15.0  # a client's patience with silence; hearts beat every 5 s
# Put before what `initialize` of an expert does. `hold` and `fail` are files that need not be there.
SLOW = """
    def initialize(self, args):
        import pathlib, time
        while pathlib.Path({hold!r}).exists():
            time.sleep(0.05)
        if pathlib.Path({fail!r}).exists():
            raise RuntimeError("a fault of a test: no memory for this expert")
"""


@dataclass(frozen=True)
class Swapping:
    """Options of a server that swaps, and the files by which an expert's load takes long or fails."""

    options: ServerOptions
    folder: Path

    def hold(self, expert: str) -> Path:
        return self.folder / f"hold-{expert}"

    def fail(self, expert: str) -> Path:
        return self.folder / f"fail-{expert}"


def generated(server: Server, **request: object) -> Generation:
    with TextToVideo(Connection(server.grpc_url)) as client:
        return client.generate_unary(**{**REQUEST, **request})


def loaded_experts(server: Server) -> set[str]:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(server.grpc_url) as client:
        return {name for name in EXPERTS if client.is_model_ready(name)}


@pytest.fixture
def swapping(options: ServerOptions, tmp_path: Path) -> Swapping:
    swapping = Swapping(options, tmp_path)
    parameter = 'parameters { key: "expert_residency", value { string_value: "one_at_a_time" } }\n'
    for loop in LOOPS:
        config = options.repository / loop / "configs/cpu.pbtxt"
        config.write_text(config.read_text(encoding="utf-8") + parameter, encoding="utf-8")
    for expert in EXPERTS:  # half the processes to start and to end at each swap
        config = options.repository / expert / "configs/cpu.pbtxt"
        config.write_text(config.read_text(encoding="utf-8").replace("count: 2", "count: 1"), encoding="utf-8")
        slow = SLOW.format(hold=str(swapping.hold(expert)), fail=str(swapping.fail(expert)))
        model = options.repository / expert / "1/model.py"
        text = model.read_text(encoding="utf-8").replace("\n    def initialize(self, args):\n", slow)
        model.write_text(text, encoding="utf-8")
    return swapping


def test_swapped_experts_give_the_same_bytes_and_a_slow_load_loses_nobody(server: Server, swapping: Swapping) -> None:
    """One server for all of it: a start costs more than each of these."""
    alone = generated(server)
    assert alone.metadata["steps"].keys() == EXPERTS and min(alone.metadata["steps"].values()) > 0
    events: list[dict[str, Any]] = []
    with running_server(swapping.options, on_event=events.append) as swapped, ThreadPoolExecutor(2) as pool:
        clips_in_turn_and_at_once_are_right(swapped, pool, alone.video)
        a_load_that_takes_long_is_told_and_waited_for(swapped, swapping, pool, alone.video)
        who_leaves_during_a_load_is_noticed_before_its_end(swapped, swapping, pool)
        a_load_that_fails_is_told_and_the_next_one_serves(swapped, swapping, alone.video)
    assert "died" not in {event["event"] for event in events}, "an unloaded expert is not a dead one"


def clips_in_turn_and_at_once_are_right(swapped: Server, pool: ThreadPoolExecutor, video: bytes) -> None:
    """Two at once, which the two denoisers would give each other's expert."""
    first = generated(swapped)
    assert loaded_experts(swapped) == {LOW}
    assert first.metadata["stages_ms"]["swap_ms"] > 0
    both = list(pool.map(lambda _: generated(swapped), range(2)))
    assert [generation.video for generation in (first, *both)] == [video] * 3


def a_load_that_takes_long_is_told_and_waited_for(
    swapped: Server, swapping: Swapping, pool: ThreadPoolExecutor, video: bytes
) -> None:
    """Between two steps, and longer than the client would wait after a step."""
    swapping.hold(LOW).touch()
    heard: list[Heartbeat] = []
    made = pool.submit(streamed, swapped, heard.append)
    wait_until(lambda: made.done() or any(is_of_a_load(beat, longer_than_s=IDLE_LIMIT_S) for beat in heard))
    swapping.hold(LOW).unlink()
    assert made.result(120).video == video


def is_of_a_load(beat: Heartbeat, *, longer_than_s: float) -> bool:
    return beat.stage == "load" and beat.stage_s > longer_than_s


def streamed(server: Server, on_heartbeat: Callable[[Heartbeat], None]) -> Generation:
    with TextToVideo(Connection(server.grpc_url)) as client:
        told = list(client.stream(**REQUEST, idle_limit_s=IDLE_LIMIT_S, on_heartbeat=on_heartbeat))
    generation = told[-1]
    assert isinstance(generation, Generation) and len(told) == 1 + REQUEST["num_inference_steps"]
    return generation


def who_leaves_during_a_load_is_noticed_before_its_end(
    swapped: Server, swapping: Swapping, pool: ThreadPoolExecutor
) -> None:
    swapping.hold(LOW).touch()
    loading, run = threading.Event(), RunDirectory(swapped.run_directory)

    def leave() -> None:
        def look(beat: Heartbeat) -> None:
            if is_of_a_load(beat, longer_than_s=0.0):
                loading.set()
                raise Left

        with TextToVideo(Connection(swapped.grpc_url)) as client:
            for told in client.stream(**REQUEST, on_heartbeat=look):
                assert isinstance(told, Progress)

    left: Future[None] = pool.submit(leave)
    assert isinstance(left.exception(120), Left) and loading.is_set()
    wait_until(lambda: load_of(run).in_flight == 0)
    assert loaded_experts(swapped) == set(), "the load is still under way"
    swapping.hold(LOW).unlink()


class Left(Exception):
    """A caller who has had enough."""


def a_load_that_fails_is_told_and_the_next_one_serves(swapped: Server, swapping: Swapping, video: bytes) -> None:
    swapping.fail(LOW).touch()
    told = f"{LOW}: could not be swapped in for {HIGH}, try again: .*no memory for this expert"
    with pytest.raises(Unavailable, match=told):
        streamed(swapped, lambda beat: None)
    swapping.fail(LOW).unlink()
    assert generated(swapped).video == video
