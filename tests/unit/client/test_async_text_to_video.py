"""The asyncio client: many calls in one thread, and cancelling a task reaches the server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from wan_t2v_client import (
    AsyncTextToVideo,
    Connection,
    Generation,
    Progress,
    RequestRefused,
    RetryPolicy,
    ServerFault,
    TextToVideo,
    Unavailable,
    async_streaming,
    streaming,
)

from tests.fakes.call_client import APIS, collect_stream
from tests.fakes.scripted_server import MADE, VIDEO, End, Nothing, Pause, Refusal, Script, Step, serving

Calls = Callable[[AsyncTextToVideo], Awaitable[None]]


def run(url: str, calls: Calls) -> None:
    async def connected() -> None:
        async with AsyncTextToVideo(Connection(url)) as server:
            await calls(server)

    asyncio.run(connected())


def test_a_cancelled_task_stops_its_work_on_the_server_and_no_other() -> None:
    async def calls(client: AsyncTextToVideo) -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(client.generate("to be stopped", on_progress=lambda progress: begun.set()))
        await begun.wait()
        other = asyncio.create_task(client.generate("another"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, 10)
        assert (await other).video == VIDEO

    with serving([Step(1), Pause()], MADE) as server:
        run(server.url, calls)
        assert server.finished == 1


def test_a_task_cancelled_while_it_waits_for_its_turn_leaves_the_queue() -> None:
    async def calls(client: AsyncTextToVideo) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.generate("a ball")
        assert await asyncio.to_thread(server.cancelled.wait, 10)

    with serving([Pause()]) as server:
        run(server.url, calls)


def test_an_exception_of_the_callers_own_stops_the_work_and_comes_through() -> None:
    def give_up(progress: Progress) -> None:
        raise KeyError("mine")

    async def calls(client: AsyncTextToVideo) -> None:
        with pytest.raises(KeyError, match="mine"):
            await client.generate("a ball", on_progress=give_up)
        assert await asyncio.to_thread(server.cancelled.wait, 10)

    with serving([Step(1), Pause()]) as server:
        run(server.url, calls)


def test_four_calls_share_a_connection() -> None:
    async def calls(client: AsyncTextToVideo) -> None:
        made = await asyncio.gather(*(client.generate(f"ball {index}") for index in range(4)))
        assert [generation.video for generation in made] == [VIDEO] * 4

    with serving([Pause(0.5), *MADE]) as server:
        run(server.url, calls)
        assert server.most_at_once == 4


def test_without_a_server_it_is_unavailable() -> None:
    async def calls(client: AsyncTextToVideo) -> None:
        for call in (client.generate("a ball"), client.generate_unary("a ball"), client.models()):
            with pytest.raises(Unavailable):
                await call

    run("127.0.0.1:1", calls)


@pytest.mark.parametrize("api", APIS)
def test_both_apis_send_the_same_and_a_finished_call_does_not_count_as_cancelled(api: str) -> None:
    with serving(MADE) as server:
        assert isinstance(collect_stream(api, server.url, seed=7, height=32)[-1], Generation)
        (request,) = server.requests
        assert [(tensor.name, tensor.datatype) for tensor in request.inputs] == [
            ("prompt", "BYTES"),
            ("seed", "INT64"),
            ("height", "INT32"),
        ]
        assert "triton_grpc_error" not in server.headers[0], "tritonserver 2.51 can die of it"
    assert server.finished == 1 and not server.cancelled.is_set()


@pytest.mark.parametrize("api", APIS)
def test_a_refused_call_is_closed_and_not_cancelled(api: str) -> None:
    refusal = Refusal("INVALID_ARGUMENT", "seed: got -1")
    with serving([Step(1), refusal]) as server, pytest.raises(RequestRefused, match="^seed: got -1"):
        collect_stream(api, server.url)
    assert server.finished == 1 and not server.cancelled.is_set()


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_does_not_end_a_refused_call_is_left(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (streaming, async_streaming):
        monkeypatch.setattr(module, "CLOSE_LIMIT_S", 0.3)
    with serving([Refusal(message="busy"), Pause()]) as server:
        with pytest.raises(Unavailable, match="^busy$"):
            collect_stream(api, server.url)
        assert server.cancelled.wait(10)


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_ends_without_a_word_is_a_fault(api: str) -> None:
    """Triton's last response has no outputs then, and is sent because the client asks for it."""
    with serving([Step(1), Nothing()]) as server:
        with pytest.raises(ServerFault, match="without a video and without an error"):
            collect_stream(api, server.url)
        (request,) = server.requests
        assert request.parameters["triton_enable_empty_final_response"].bool_param
    assert server.finished == 1 and not server.cancelled.is_set()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("script", [[End()], [Step(1), End()]])
def test_a_call_that_the_server_ends_without_a_last_answer_is_a_fault(api: str, script: Script) -> None:
    with serving(script) as server, pytest.raises(ServerFault, match="without a video and without an error"):
        collect_stream(api, server.url, deadline_s=600.0)


def test_the_blocking_client_is_unchanged_by_an_event_loop() -> None:
    async def ask() -> bytes | None:
        return await asyncio.to_thread(lambda: TextToVideo(Connection(server.url)).generate("a ball").video)

    with serving(MADE) as server:
        assert asyncio.run(ask()) == VIDEO


def test_a_call_that_grpc_cancels_by_itself_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where the request cannot be sent. A task group would take a cancelled call for a finished one."""

    async def broken(*_: object) -> AsyncIterator[None]:
        raise ValueError("no such request")
        yield

    async def calls(client: AsyncTextToVideo) -> None:
        with pytest.raises(ServerFault, match="gRPC cancelled the call"):
            await client.generate("a ball")

    monkeypatch.setattr(async_streaming, "_requests", broken)
    with serving(MADE) as server:
        run(server.url, calls)


@pytest.mark.parametrize("endpoint", ["generate", "generate_unary"])
def test_closing_cancels_a_call_in_the_pause_before_the_next_try(endpoint: str) -> None:
    async def calls() -> None:
        pausing = asyncio.Event()
        policy = RetryPolicy(first_wait_s=3600, longest_wait_s=3600, on_wait=lambda error, wait_s: pausing.set())
        client = AsyncTextToVideo(Connection(server.url), retry=policy)
        task = asyncio.create_task(getattr(client, endpoint)("a ball"))
        await pausing.wait()
        await client.close()
        await asyncio.wait([task], timeout=60)
        assert task.cancelled()

    with serving([Refusal()]) as server:
        asyncio.run(calls())
        assert len(server.requests) == 1


def test_closing_cancels_running_calls_and_stops_their_work() -> None:
    async def calls() -> None:
        begun = asyncio.Event()
        client = AsyncTextToVideo(Connection(server.url))
        task = asyncio.create_task(client.generate("a ball", on_progress=lambda progress: begun.set()))
        await begun.wait()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, 60)

    with serving([Step(1), Pause()]) as server:
        asyncio.run(calls())


def test_a_closed_client_refuses_every_call() -> None:
    async def calls() -> None:
        async with AsyncTextToVideo(Connection("127.0.0.1:1")) as client:
            pass
        for call in (client.generate("x"), client.generate_unary("x"), client.models(), client.limits()):
            with pytest.raises(RequestRefused, match="^the client is closed$"):
                await call

    asyncio.run(calls())
