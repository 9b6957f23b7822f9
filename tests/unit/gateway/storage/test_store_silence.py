"""A store that takes a question and does not answer it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from wan_t2v_gateway.storage import store as module
from wan_t2v_gateway.storage.store import StorageUnavailable, Store


async def hang(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


async def first_part(store: Store) -> bytes:
    return await anext(store.read("video_1/1", "video", start=0, end=6))


@pytest.mark.parametrize(
    ("question", "call", "failure"),
    [
        ("head_async", lambda store: store.info("video_1/1", "video"), "does not answer"),
        ("get_range_async", first_part, "does not return a file"),
        ("delete_async", lambda store: store.remove("video_1/1"), "does not delete"),
        ("sign_async", lambda store: store.signed_address("video_1/1", "video", 60), "signs no address"),
    ],
)
def test_silence_ends_as_a_store_that_is_away(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    call: Callable[[Store], Awaitable[Any]],
    failure: str,
) -> None:
    monkeypatch.setattr(module, "_ANSWER_LIMIT_S", 0.01)
    monkeypatch.setattr(module, "_PART_LIMIT_S", 0.01)
    monkeypatch.setattr(obstore, question, hang)

    async def ask() -> None:
        with pytest.raises(StorageUnavailable, match=f"the store {failure}: no answer in time"):
            await asyncio.wait_for(call(Store("", folder=tmp_path)), 60)

    asyncio.run(ask())


def test_later_parts_of_a_file_may_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their caller has the file's head already, so that a limit could only break the file off."""
    limits: list[float | None] = []
    limited = module._limited

    def noted(failure: str, limit_s: float | None) -> Any:
        limits.append(limit_s)
        return limited(failure, limit_s)

    monkeypatch.setattr(module, "_limited", noted)
    store, data = Store("", folder=tmp_path), bytes(2 * 2**20 + 1)

    async def read() -> bytes:
        await store.put("video_1/1", "video", data)
        return b"".join([part async for part in store.read("video_1/1", "video", start=0, end=len(data))])

    assert asyncio.run(read()) == data and limits == [module._PART_LIMIT_S, None, None]
