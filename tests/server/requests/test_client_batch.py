"""The client's batches, its asyncio calls and its retries against a real server."""

import asyncio
import json
from pathlib import Path

import pytest
from wan_t2v_client import AsyncTextToVideo, Connection, Generation, Progress, RetryPolicy, TextToVideo, Unavailable
from wan_t2v_client.cli.main import main

from embedded.server import Server
from tests.server.statistics import executions_when_idle

EXPERTS = ("high_noise_expert", "low_noise_expert")
SMALL = {"num_frames": 5, "height": 32, "width": 48, "num_inference_steps": 4}
LONG = {"num_inference_steps": 400, "seed": 5}


def test_a_batch_makes_what_it_can_and_goes_on_where_it_was(
    server: Server, client: TextToVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "videos"
    asked = [{"prompt": "a red ball", "name": "ball"}, {"prompt": "x", "height": 100}, {"prompt": "a cube", "fps": 8}]
    prompts.write_text("\n".join(json.dumps(line) for line in asked))
    command = ["batch", str(prompts), "--out", str(out), "--url", server.grpc_url, "--json",
               "--size", "32x48", "--frames", "5", "--steps", "4", "--seed", "5"]  # fmt: skip
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert sorted(fact["line"] for fact in report["made"]) == [1, 3]
    assert [fact["line"] for fact in report["failed"]] == [2] and "height: got 100" in report["failed"][0]["reason"]
    assert (out / "ball.mp4").read_bytes() == client.generate("a red ball", seed=5, **SMALL).video
    assert json.loads((out / "ball.json").read_text())["metadata"]["settings"]["seed"] == 5
    assert main(command) == 1
    again = json.loads(capsys.readouterr().out)
    assert [fact["line"] for fact in again["skipped"]] == [1, 3] and not again["made"]
    assert len(list(out.iterdir())) == 4


def test_asyncio_calls_give_the_bytes_of_blocking_ones_and_tell_every_step(server: Server, client: TextToVideo) -> None:
    async def ask(seed: int, told: list[Progress]) -> Generation:
        return await connected.generate("a red ball", seed=seed, on_progress=told.append, preview_every=2, **SMALL)

    async def ask_three() -> list[Generation]:
        async with connected:
            assert {"text_to_video", "text_to_video_stream"} <= {model["name"] for model in await connected.models()}
            return await asyncio.gather(*(ask(seed, told[seed]) for seed in range(3)))

    connected, told = AsyncTextToVideo(Connection(server.grpc_url)), [[], [], []]
    made = asyncio.run(ask_three())
    assert [one.video for one in made] == [client.generate("a red ball", seed=seed, **SMALL).video for seed in range(3)]
    assert [[(p.step, p.preview is not None) for p in steps] for steps in told] == [
        [(1, False), (2, True), (3, False), (4, True)]
    ] * 3


def test_a_cancelled_task_stops_its_work(server: Server) -> None:
    before = executions_when_idle(server, *EXPERTS)

    async def stopped_after_a_step() -> None:
        async with AsyncTextToVideo(Connection(server.grpc_url)) as client:
            begun = asyncio.Event()
            task = asyncio.create_task(client.generate("a ball", on_progress=lambda told: begun.set(), **LONG))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(stopped_after_a_step())
    passes = sum(executions_when_idle(server, *EXPERTS).values()) - sum(before.values())
    assert 0 < passes < 2 * LONG["num_inference_steps"] / 4


def test_who_finds_the_endpoint_full_gets_in_later(server: Server) -> None:
    """The embedded config lets 1 run and 16 wait."""
    waits: list[Unavailable] = []
    retry = RetryPolicy(attempts=20, on_wait=lambda error, wait_s: waits.append(error))

    async def ask() -> list[Generation]:
        async with AsyncTextToVideo(Connection(server.grpc_url), retry=retry) as client:
            asked = (client.generate("a ball", seed=seed, **SMALL) for seed in range(20))
            return await asyncio.gather(*asked)

    assert all(generation.video for generation in asyncio.run(ask()))
    assert waits and all("try again later" in str(error) for error in waits)
    assert all((error.retry_after_s is not None) == ("in about" in str(error)) for error in waits)
