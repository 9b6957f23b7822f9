"""Names whose look-up takes long hold up their owner alone."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from wan_t2v_gateway.api.webhook_address import public_addresses
from wan_t2v_gateway.name_lookups import _LOOKUPS, NameLookups

from tests.waiting import LIMIT_S


@dataclass
class SlowNames:
    """A name server that answers for `*.slow` once `answers` is set, and for all others at once."""

    asked: list[str] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)

    def look_up(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        if host.endswith(".slow"):
            self.answers.wait()
        return [(0, 0, 0, "", ("1.1.1.1", port))]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    names = SlowNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.answers.set()


async def addresses(names: NameLookups, owner: str, host: str) -> list[str]:
    return await public_addresses(f"http://{host}/", (), names=names, owner=owner)


def test_an_owner_has_few_look_ups_at_a_time_and_others_do_not_wait(slow: SlowNames) -> None:
    async def test() -> None:
        names = NameLookups()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        many = [asyncio.create_task(addresses(names, "many", f"{n}.slow")) for n in range(2 * _LOOKUPS)]
        while len(slow.asked) < _LOOKUPS:
            await asyncio.sleep(0.01)
        assert await addresses(names, "few", "receiver.example") == ["1.1.1.1"]
        assert len(slow.asked) == _LOOKUPS + 1
        await asyncio.to_thread(lambda: None)  # blocking work of the process has other threads
        slow.answers.set()
        assert await asyncio.gather(*many) == [["1.1.1.1"]] * len(many)

    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_a_look_up_that_nobody_waits_for_any_more_keeps_its_place(slow: SlowNames) -> None:
    async def test() -> None:
        names = NameLookups()
        left = [asyncio.create_task(addresses(names, "many", f"{n}.slow")) for n in range(_LOOKUPS)]
        while len(slow.asked) < _LOOKUPS:
            await asyncio.sleep(0.01)
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        late = asyncio.create_task(addresses(names, "many", "late.example"))
        await addresses(names, "few", "receiver.example")
        assert "late.example" not in slow.asked
        slow.answers.set()
        assert await late == ["1.1.1.1"]

    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_a_look_up_that_gets_no_thread_is_an_error_and_keeps_no_place(slow: SlowNames) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test() -> None:
        names = NameLookups()
        for _ in range(_LOOKUPS):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="can't start new thread"):
                patch.setattr(threading.Thread, "start", fail)
                await addresses(names, "anna", "receiver.example")
        assert await addresses(names, "anna", "receiver.example") == ["1.1.1.1"]

    asyncio.run(asyncio.wait_for(test(), LIMIT_S))


def test_a_name_that_is_not_found_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="Temporary failure"):
        asyncio.run(addresses(NameLookups(), "anna", "receiver.example"))
