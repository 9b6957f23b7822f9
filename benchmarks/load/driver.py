"""Load driver: send planned requests to the streaming endpoint at their arrival times, and record the outcomes."""

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
    """Outcome of a request. `arrived_s` and `ended_s` are seconds since the run's start.

    Attributes:
        late_s: delay of sending after the arrival time.
        gaps_s: seconds between consecutive progress messages.
        queue_wait_s: seconds from arrival to the start of the first step; None without any progress message.
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
    """Send each request at its arrival time, without waiting for earlier ones. Returns the outcomes in order."""
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
    """Measure the seconds of a single request per size on the idle server: the median of three after a warm-up."""
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
    """Read the stream to its end, or close it after the planned step. Raises ClientError."""
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
