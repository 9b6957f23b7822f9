"""The store of finished files: a folder or a bucket, by one URL. A file is complete or absent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

NAMES = {"video": "video.mp4", "thumbnail": "thumbnail.png", "spritesheet": "spritesheet.png"}
TYPES = {"video": "video/mp4", "thumbnail": "image/png", "spritesheet": "image/png"}

_PART_BYTES = 2**20
_ANSWER_LIMIT_S = 5.0  # obstore itself repeats for minutes
_PART_LIMIT_S = 15.0  # for the first part of a file, also over a slow line


class StorageUnavailable(Exception):
    """The store refused or did not answer."""


class FileRefused(StorageUnavailable):
    """The store answers, and refused this file."""


class UnknownStore(Exception):
    """The store's URL cannot be used; the message says why."""


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and ETag of a file."""

    size: int
    etag: str


class Store:
    """Files of videos, by folder and variant. A folder is of one attempt: `<video id>/<attempt>`.

    The constructor raises UnknownStore.
    """

    def __init__(self, url: str, *, folder: Path) -> None:
        if url:
            try:
                self._store = from_url(url)
            except (BaseError, ValueError) as error:
                raise UnknownStore(f"--store-url: {_first_line(error)}; accepted: such as s3://bucket") from None
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(folder, automatic_cleanup=True)  # of folders that became empty

    async def put(self, folder: str, variant: str, data: bytes) -> None:
        """Write a whole file. Raises FileRefused, or StorageUnavailable if the store does not answer either."""
        try:
            await obstore.put_async(self._store, _path(folder, variant), data)
        except (BaseError, OSError) as error:
            kind = FileRefused if await self._answers(folder, variant) else StorageUnavailable
            raise kind(f"the store refused a file: {_first_line(error)}") from None

    async def _answers(self, folder: str, variant: str) -> bool:
        """Whether the store tells that a file is there, or is not."""
        try:
            await self.info(folder, variant)
        except StorageUnavailable:
            return False
        return True

    async def info(self, folder: str, variant: str) -> FileInfo | None:
        """Return size and ETag of a file; None if it is missing. Raises StorageUnavailable."""
        try:
            async with _limited("does not answer", _ANSWER_LIMIT_S):
                meta = await obstore.head_async(self._store, _path(folder, variant))
        except FileNotFoundError:
            return None
        return FileInfo(meta["size"], (meta["e_tag"] or f"{folder}-{meta['size']}").strip('"'))

    async def read(self, folder: str, variant: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to `end` (exclusive), in parts of at most 1 MiB. Raises StorageUnavailable."""
        path = _path(folder, variant)
        for begin in range(start, end, _PART_BYTES):
            limit_s = _PART_LIMIT_S if begin == start else None  # later, a caller has the file's head already
            try:
                async with _limited("does not return a file", limit_s):
                    part = await obstore.get_range_async(
                        self._store, path, start=begin, end=min(end, begin + _PART_BYTES)
                    )
            except FileNotFoundError as error:
                raise StorageUnavailable(f"the store does not return a file: {_first_line(error)}") from None
            yield bytes(part)

    async def signed_address(self, folder: str, variant: str, seconds: float) -> str:
        """Sign a URL by which a file can be fetched from the bucket for `seconds`. Raises StorageUnavailable."""
        try:
            path, store = _path(folder, variant), cast(Any, self._store)
            async with _limited("signs no address", _ANSWER_LIMIT_S):  # it may have to fetch credentials
                return str(await obstore.sign_async(store, "GET", path, timedelta(seconds=seconds)))
        except (ValueError, TypeError) as error:
            raise StorageUnavailable(f"the store signs no address: {_first_line(error)}") from None

    async def remove(self, folder: str) -> None:
        """Delete all files of a folder; missing ones count as deleted. Raises StorageUnavailable."""
        for variant in NAMES:
            try:
                async with _limited("does not delete", _ANSWER_LIMIT_S):
                    await obstore.delete_async(self._store, _path(folder, variant))
            except FileNotFoundError:
                continue


@asynccontextmanager
async def _limited(failure: str, limit_s: float | None) -> AsyncIterator[None]:
    """Raise StorageUnavailable, with what the store fails to do, for its errors and its silence.

    A FileNotFoundError is an answer, and passes.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except FileNotFoundError:
        raise
    except TimeoutError:
        raise StorageUnavailable(f"the store {failure}: no answer in time") from None
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"the store {failure}: {_first_line(error)}") from None


def _path(folder: str, variant: str) -> str:
    return f"{folder}/{NAMES[variant]}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
