"""Send planned requests through the streaming endpoint at their times, and record each outcome."""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from wan_t2v_client import AsyncTextToVideo, ClientError, Generation, Unavailable

from benchmarks.load.traffic import PlannedRequest
from wan_t2v.shapes import VideoShape

FINISHED, CANCELLED, REFUSED, FAILED = "finished", "cancelled", "refused", "failed"


@dataclass
class Outcome:
    """Outcome of a request; seconds since the run's start, but `gaps_s`, `late_s` and `queue_wait_s`.

    Attributes:
        gaps_s: between two progress messages.
        queue_wait_s: from arrival to the beginning of the first step; None if no step was told.
    """

    size: VideoShape
    arrived_s: float
    late_s: float = 0.0
    ended: str = FAILED
    ended_s: float = 0.0
    queue_wait_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    error: str = ""


async def drive(
    client: AsyncTextToVideo, planned: Sequence[PlannedRequest], *, steps: int, preview_every: int = 0
) -> list[Outcome]:
    """Send each request when it arrives, whatever became of those before it."""
    start = time.monotonic()
    tasks = []
    for request in planned:
        await asyncio.sleep(start + request.arrives_s - time.monotonic())
        tasks.append(asyncio.create_task(_send(client, request, start=start, steps=steps, preview=preview_every)))
    for index, task in enumerate(asyncio.as_completed(tasks), start=1):
        await task
        if index % 10 == 0 or index == len(tasks):
            print(f"{index} of {len(tasks)} requests ended", file=sys.stderr)
    return [task.result() for task in tasks]


async def time_alone(
    client: AsyncTextToVideo, sizes: Sequence[VideoShape], *, steps: int, prompts: Sequence[str]
) -> dict[VideoShape, float]:
    """Seconds of one request of each size on the idle server, warm: the median of three after a first one."""
    seconds = {}
    for size in sizes:
        times = []
        for seed in range(4):
            started = time.monotonic()
            await client.generate(prompts[0], seed=seed, num_inference_steps=steps, **_pixels(size))
            times.append(time.monotonic() - started)
        seconds[size] = statistics.median(times[1:])
    return seconds


async def _send(
    client: AsyncTextToVideo, request: PlannedRequest, *, start: float, steps: int, preview: int
) -> Outcome:
    outcome = Outcome(request.size, request.arrives_s, late_s=time.monotonic() - start - request.arrives_s)
    told_s: list[float] = []
    try:
        await _read(client, request, outcome, told_s=told_s, start=start, fields=_fields(request, steps, preview))
    except ClientError as error:
        refused = isinstance(error, Unavailable) and not told_s
        outcome.ended, outcome.error = (REFUSED if refused else FAILED), f"{type(error).__name__}: {error}"
    outcome.ended_s = time.monotonic() - start
    outcome.gaps_s = [after - before for before, after in zip(told_s, told_s[1:], strict=False)]
    return outcome


async def _read(
    client: AsyncTextToVideo,
    request: PlannedRequest,
    outcome: Outcome,
    *,
    told_s: list[float],
    start: float,
    fields: dict[str, Any],
) -> None:
    """Read the stream to its end, or leave it after the planned step."""
    async with aclosing(client.stream(request.prompt, **fields)) as news:
        async for told in news:
            if isinstance(told, Generation):
                outcome.ended = FINISHED
                return
            told_s.append(time.monotonic() - start)
            if len(told_s) == 1:
                outcome.queue_wait_s = max(0.0, told_s[0] - request.arrives_s - told.step_s)
            if told.step == request.leaves_after:
                outcome.ended = CANCELLED
                return


def _fields(request: PlannedRequest, steps: int, preview_every: int) -> dict[str, Any]:
    shown = {"preview_every": preview_every} if preview_every else {}
    return {"seed": request.seed, "num_inference_steps": steps, **_pixels(request.size), **shown}


def _pixels(size: VideoShape) -> dict[str, Any]:
    return {"height": size.height, "width": size.width, "num_frames": size.frames}
