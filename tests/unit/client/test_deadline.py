"""Numbers of seconds: which are taken, and how deadlines are sent."""

import asyncio
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from wan_t2v_client import AsyncTextToVideo, Connection, DeadlineExceeded, RequestRefused, TextToVideo, deadline
from wan_t2v_client.deadline import LONGEST_S, Deadline

from tests.fakes.client_process import run_refused
from tests.fakes.scripted_server import MADE, VIDEO, serving

NOWHERE = "127.0.0.1:1"


NO_NUMBERS = ["nan", "inf", "-inf", "-1", "1e400", "1e300", "soon", ""]


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("option", ["--deadline-s", "--keepalive-s", "--idle-limit-s"])
def test_what_is_no_usable_number_of_seconds_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    for command in (["generate", "x"], ["batch", "x.txt"], ["models"]):
        if command != ["models"] or option != "--idle-limit-s":
            errors = run_refused(capsys, *command, "--url", NOWHERE, f"{option}={text}")
            assert option in errors and repr(text) in errors and "accepted: a number of seconds" in errors


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300, "5", True])
def test_the_library_refuses_them_too(seconds: float) -> None:
    async def ask_asyncio() -> None:
        async with AsyncTextToVideo(Connection(NOWHERE)) as server:
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                await server.generate("x", deadline_s=seconds)
            with pytest.raises(RequestRefused, match="idle_limit_s: got"):
                await server.generate("x", idle_limit_s=seconds)
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                await server.models(deadline_s=seconds)

    with TextToVideo(Connection(NOWHERE)) as server:
        for ask in (server.generate, server.generate_unary):
            with pytest.raises(RequestRefused, match="deadline_s: got"):
                ask("x", deadline_s=seconds)
        with pytest.raises(RequestRefused, match="idle_limit_s: got"):
            server.generate("x", idle_limit_s=seconds)
        with pytest.raises(RequestRefused, match="deadline_s: got"):
            server.models(deadline_s=seconds)
    asyncio.run(ask_asyncio())
    with pytest.raises(RequestRefused, match="keepalive_s: got"):
        TextToVideo(Connection(NOWHERE, keepalive_s=seconds))


@pytest.mark.parametrize("kind", [np.float32, np.int64, int, float])
def test_numbers_of_all_kinds_are_seconds(kind: type) -> None:
    assert Deadline(kind(5)).left_s() == pytest.approx(5, abs=0.5)


def test_the_longest_times_can_be_sent() -> None:
    with serving(MADE) as server, TextToVideo(Connection(server.url, keepalive_s=2e6)) as client:
        for ask in (client.generate, client.generate_unary):
            assert ask("x", deadline_s=LONGEST_S).video == VIDEO
        assert all(request.parameters["timeout"].int64_param > 9e13 for request in server.requests)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("deadline_s", [None, 0.2])
def test_a_question_has_a_deadline_of_its_own_and_its_error_speaks_of_no_video(
    silent: str, deadline_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "ANSWER_LIMIT_S", 0.1)
    said = f"^{re.escape(f'the server did not answer within {deadline_s or 0.1} s')}$"

    async def ask_asyncio() -> None:
        async with AsyncTextToVideo(Connection(silent)) as server:
            for ask in (server.limits, server.models):
                with pytest.raises(DeadlineExceeded, match=said):
                    await ask(deadline_s=deadline_s)

    with TextToVideo(Connection(silent)) as server:
        for ask in (server.limits, server.models):
            with pytest.raises(DeadlineExceeded, match=said):
                ask(deadline_s=deadline_s)
    asyncio.run(ask_asyncio())


def test_the_page_tells_the_deadline_of_questions(root: Path) -> None:
    page = (root / "docs/use/client.md").read_text(encoding="utf-8")
    assert f"wait {deadline.ANSWER_LIMIT_S:.0f} s for the answer" in " ".join(page.split())
