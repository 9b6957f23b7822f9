"""A file that the store refuses is told apart from a store that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from wan_t2v_gateway.storage import store as module
from wan_t2v_gateway.storage.store import FileRefused, StorageUnavailable, Store


async def refuse(*_: Any) -> None:
    raise GenericError("away\nand more of it")


async def hang(*_: Any) -> None:
    await asyncio.Event().wait()


def put(store: Store) -> StorageUnavailable:
    with pytest.raises(StorageUnavailable, match="the store refused a file: ") as refusal:
        asyncio.run(store.put("video_1/1", "video", b"frames"))
    return refusal.value


def test_a_file_that_cannot_be_written_is_refused_alone(tmp_path: Path) -> None:
    (tmp_path / "video_1/1/video.mp4").mkdir(parents=True)
    assert isinstance(put(Store("", folder=tmp_path)), FileRefused)


@pytest.mark.parametrize("answer", [refuse, hang])
def test_a_store_that_does_not_answer_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Awaitable[None]]
) -> None:
    store = Store("", folder=tmp_path)
    monkeypatch.setattr(module, "_ANSWER_LIMIT_S", 0.05)
    monkeypatch.setattr(obstore, "put_async", refuse)
    monkeypatch.setattr(obstore, "head_async", answer)
    assert type(put(store)) is StorageUnavailable
