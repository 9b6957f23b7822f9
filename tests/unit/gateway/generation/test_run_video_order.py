"""What a worker does in which order at a job's end, and before the next one begins."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from wan_t2v_gateway.generation import run_video
from wan_t2v_gateway.generation.run_video import VideoRunner

VIDEO: Any = SimpleNamespace(id="video_1", attempt=1, trace="", fields={})


class Events(list[str]):
    """Names of what was called, in order."""

    def noting(self, name: str, answer: Any = None) -> Any:
        def called(*_: Any, **__: Any) -> Any:
            self.append(name)
            return answer

        return called

    def awaited(self, name: str, answer: Any = None) -> Any:
        async def called(*_: Any, **__: Any) -> Any:
            self.append(name)
            return answer

        return called


def runner(**parts: Any) -> VideoRunner:
    """A runner that is made of these parts alone."""
    made = VideoRunner.__new__(VideoRunner)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def test_a_hold_ends_once_the_video_is_stored_since_the_store_may_be_why(monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events()

    class Reporter:
        def __init__(self, *_: Any) -> None:
            pass

        async def __aenter__(self) -> "Reporter":
            return self

        async def __aexit__(self, *_: Any) -> None:
            pass

        async def unless_superseded(self, generation: Any) -> Any:
            return await generation

    @contextlib.asynccontextmanager
    async def client(_: Any) -> AsyncIterator[None]:
        yield None

    monkeypatch.setattr(run_video, "Reporter", Reporter)
    span = contextlib.nullcontext(SimpleNamespace(context={}))
    services = SimpleNamespace(
        database=None,
        tracer=SimpleNamespace(span=lambda *_, **__: span),
        measurements=SimpleNamespace(finishing=SimpleNamespace(observe=events.noting("observed"))),
    )
    made = runner(
        _services=services,
        _pauses=SimpleNamespace(end=events.noting("hold ended")),
        _traced_client=client,
        _generation=events.awaited("generated"),
        _store=events.awaited("stored"),
    )
    asyncio.run(made._attempt(VIDEO))
    assert events == ["generated", "stored", "hold ended", "observed"]


def test_the_files_of_a_cancelled_job_go_also_if_the_gateway_stops_before_its_end_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = Events()

    async def end(*_: Any) -> None:
        events.append("stopped")
        raise asyncio.CancelledError

    monkeypatch.setattr(run_video.videos, "cancel_age_s", events.awaited("age", 0.0))
    services = SimpleNamespace(
        database=None, measurements=SimpleNamespace(cancel=SimpleNamespace(observe=lambda _: None))
    )
    made = runner(_services=services, _end=end, _uploads=SimpleNamespace(discard=events.noting("files go")))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(made._cancelled(VIDEO))
    assert events == ["age", "stopped", "files go"]


def test_a_refusal_while_the_server_is_asked_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    over = iter([True, False])
    monkeypatch.setattr(run_video, "is_ready", Events().awaited("asked", True))
    made = runner(_pauses=SimpleNamespace(are_over=lambda: next(over)), _connection=None, _marker=None)
    assert asyncio.run(made.takes_jobs()) is False
