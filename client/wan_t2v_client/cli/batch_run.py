"""Run a batch: several videos at a time. Finished videos stay, even if the rest fails or is stopped."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wan_t2v_client.async_text_to_video import AsyncTextToVideo
from wan_t2v_client.cli.batch_file import BatchRequest
from wan_t2v_client.cli.batch_folder import BatchFolder
from wan_t2v_client.errors import ClientError, ServerFault, WrongEndpoint
from wan_t2v_client.watchdog import IDLE_LIMIT_S


@dataclass(frozen=True)
class Outcome:
    """Outcome of one request: `made`, `skipped` (it was finished before) or `failed`, and the reason."""

    request: BatchRequest
    kind: str
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """The outcomes of `requests`, in the order in which they ended; unfinished requests have none."""

    requests: Sequence[BatchRequest]
    outcomes: list[Outcome] = field(default_factory=list)

    def ended(self, kind: str) -> list[Outcome]:
        """Return the outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.kind == kind]

    def unfinished(self) -> list[BatchRequest]:
        """Return the requests that were not sent, or were stopped before they ended."""
        ended = {outcome.request.line for outcome in self.outcomes}
        return [request for request in self.requests if request.line not in ended]


def skip_finished(report: Report, folder: BatchFolder) -> list[BatchRequest]:
    """Record finished requests as skipped and return the others.

    Raises RequestRefused if one would overwrite another's video.
    """
    finished = [request for request in report.requests if folder.has(request)]
    report.outcomes += [Outcome(request, "skipped") for request in finished]
    return report.unfinished()


async def make_videos(
    report: Report,
    *,
    server: AsyncTextToVideo,
    folder: BatchFolder,
    concurrency: int,
    deadline_s: float | None = None,
    idle_limit_s: float = IDLE_LIMIT_S,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Make the unfinished videos, at most `concurrency` at a time. `on_outcome` is called for each as it ends.

    A failed request is recorded in the report and the others continue. Cancelling stops the work on the server.
    Raises OSError if a video cannot be written, and WrongEndpoint: the next videos would fail as well. Raises
    ServerFault if a video has no outcome all the same.
    """
    waiting = iter(report.unfinished())

    async def make_some() -> None:
        for request in waiting:
            outcome = await _make(request, server, folder=folder, deadline_s=deadline_s, idle_limit_s=idle_limit_s)
            report.outcomes.append(outcome)
            on_outcome(outcome)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(report.unfinished()))):
                group.create_task(make_some())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    if missing := report.unfinished():  # a task group takes a task that ends as cancelled for a success
        raise ServerFault(f"{len(missing)} of {len(report.requests)} videos were cancelled, and not by this command")


async def _make(
    request: BatchRequest,
    server: AsyncTextToVideo,
    *,
    folder: BatchFolder,
    deadline_s: float | None,
    idle_limit_s: float,
) -> Outcome:
    started = time.monotonic()
    try:
        generation = await server.generate(**request.fields, deadline_s=deadline_s, idle_limit_s=idle_limit_s)
    except WrongEndpoint:
        raise  # every other request would fail as well
    except ClientError as error:
        return Outcome(request, "failed", time.monotonic() - started, str(error))
    seconds = time.monotonic() - started
    folder.keep(request, generation, seconds=round(seconds, 2))
    return Outcome(request, "made", seconds)
