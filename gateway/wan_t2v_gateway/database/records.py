"""A video's record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

FINISHED = ("completed", "failed", "cancelled")
MODEL_FPS = 16  # frames per second of the model's training videos


@dataclass(frozen=True)
class Video:
    """A job's record in the database. `fields` are the request's, in the server's types."""

    id: str
    owner: str
    status: str
    model: str
    fields: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    progress: dict[str, Any]
    error: dict[str, Any] | None
    metadata: dict[str, Any] | None
    bytes: int
    sha256: str | None
    turn: int
    queue_job: int | None
    attempt: int
    cancel_requested_at: datetime | None
    remixed_from: str | None
    body_hash: str | None
    webhook_url: str
    trace: dict[str, str]
    folder: str | None
    folders: list[str]
    outage_s: float

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINISHED

    @property
    def files_folder(self) -> str:
        """Folder of the finished files in the store: the video's id in records of older gateways, which name none."""
        return self.folder or self.id


COLUMNS = (
    "id, owner, status, model, fields, created_at, started_at, completed_at, expires_at, progress, error, metadata, "
    "bytes, sha256, turn, queue_job, attempt, cancel_requested_at, remixed_from, body_hash, webhook_url, "
    "trace, folder, folders, outage_s"
)


def video_from_row(row: DictRow) -> Video:
    """Read a row of `COLUMNS`."""
    return Video(**row)
