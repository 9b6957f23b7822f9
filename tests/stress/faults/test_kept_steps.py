"""A generation that will be killed after a step is held at that step."""

import contextlib
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.stress.faults import kept_steps
from tests.stress.faults.messages import Message


def test_a_step_is_held_before_the_clip_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = list[str]()

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        happened.append("held")
        yield
        happened.append("released")

    @contextlib.contextmanager
    def asked(*_: Any) -> Iterator[Iterator[Message]]:
        happened.append("asked")
        yield iter([Message(step=1), Message(step=2)])

    monkeypatch.setattr(kept_steps, "grpc_messages", asked)
    monkeypatch.setattr(kept_steps, "stub_pids", lambda pid: {kept_steps.STREAM: {1}})
    monkeypatch.setattr(os, "kill", lambda pid, signum: happened.append("killed"))
    victim: Any = SimpleNamespace(server=SimpleNamespace(grpc_url="", pid=1))
    kept_steps._killed_streaming(victim, held(), {}, step=2, last=False)
    assert happened == ["held", "asked", "killed", "released"]
