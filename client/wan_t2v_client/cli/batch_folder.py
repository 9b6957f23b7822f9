"""The folder of a batch: each video, and beside it a JSON file with its request."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from wan_t2v_client.cli.batch_file import BatchRequest
from wan_t2v_client.cli.output_file import OutputFile, check_output, make_folder
from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.generation import Generation


class BatchFolder:
    """A batch's folder, made if it is missing. Raises OSError if it cannot be written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path)

    def video(self, request: BatchRequest) -> Path:
        """Path of the request's video."""
        return self._path / _file_name(request, "mp4")

    def description(self, request: BatchRequest) -> Path:
        """Path of the JSON file that describes the video."""
        return self._path / _file_name(request, "json")

    def has(self, request: BatchRequest) -> bool:
        """Whether the request's video is complete. Raises RequestRefused if another request's video has its name."""
        if not self.description(request).is_file():  # reading a named pipe would wait for a writer
            return False
        try:
            description = json.loads(self.description(request).read_bytes())
            described_request, digest = description["request"], description["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return False
        video = self.video(request)
        if not video.is_file() or _sha256(video.read_bytes()) != digest:
            return False
        if described_request != request.fields:
            raise RequestRefused(
                f"line {request.line}: {video} is the video of another request, {json.dumps(described_request)}; "
                "give this one another name, or remove that file"
            )
        return True

    def check(self, request: BatchRequest) -> None:
        """Raise OSError if the request's files could not be written."""
        for path in (self.video(request), self.description(request)):
            check_output(path)

    def keep(self, request: BatchRequest, generation: Generation, *, seconds: float) -> None:
        """Write the video, and then its description: without one, a video does not count as finished."""
        assert generation.video is not None  # no other output is requested
        description: dict[str, Any] = {
            "request": dict(request.fields),
            "video": f"{request.name}.mp4",
            "sha256": _sha256(generation.video),
            "seconds": seconds,
            "metadata": generation.metadata,
        }
        with OutputFile(self.video(request)) as file:
            file.write(generation.video)
        with OutputFile(self.description(request)) as file:
            file.write(json.dumps(description, indent=2, ensure_ascii=False).encode() + b"\n")


def _file_name(request: BatchRequest, suffix: str) -> str:
    """Return the file's name, encoded as UTF-8 even if the locale's encoding lacks a character."""
    return os.fsdecode(f"{request.name}.{suffix}".encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
