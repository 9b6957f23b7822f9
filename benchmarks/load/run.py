"""Run random load: Poisson arrivals of several sizes, with a share of callers who cancel.

    python -m benchmarks.load.run --utilisation 0.7 --cancel-ratio 0.2        or        ... --url HOST:PORT --rate 0.05

perf_analyzer keeps a fixed number of equal requests in flight and never cancels. Here arrivals are a Poisson process:
a slow server does not get fewer requests, and latency counts from the arrival. All requests use the streaming endpoint.
Without `--rate`, each size is timed alone first, and the rate is set to keep the server busy `--utilisation` of the
time. The last line printed is JSON:

* `latency_s`: by size, of requests that got their video;
* `queue_wait_s`: from arrival to the start of the first step, validation and text encoding included;
* `step_gap_s`: between two progress messages of a request, measured by the client;
* `finished`, `cancelled` (by this program), `refused` (UNAVAILABLE before any progress), `failed` (any other error);
* `late_s`: largest delay with which this program sent a request; much more than 0 means that it was the bottleneck.
"""

import argparse
import asyncio
import contextlib
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wan_t2v_client import AsyncTextToVideo, Connection

from benchmarks.harness.machine import provenance
from benchmarks.harness.percentiles import summary
from benchmarks.harness.server_under_test import add_server_options, server_under_test
from benchmarks.load.driver import CANCELLED, FAILED, FINISHED, REFUSED, Outcome, drive, time_alone
from benchmarks.load.traffic import Traffic, mix_from_text, plan_requests, rate_for
from training.world.prompts import fixed_prompts
from wan_t2v.shapes import VideoShape

PROMPTS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Send the traffic and print the figures. Returns an exit code: 1 if a request failed."""
    options = _parser().parse_args(arguments)
    about = provenance()
    traffic = Traffic(
        options.requests, options.rate or 1.0, options.sizes, options.steps, options.cancel_ratio, options.seed
    )
    with (
        tempfile.TemporaryDirectory(prefix="wan-t2v-load-") as name,
        server_under_test(options.url, options.repository, Path(name)) as url,
    ):
        traffic, outcomes = asyncio.run(_run(url, traffic, options))
    figures = report(traffic, outcomes)
    print(json.dumps({**figures, **about}))
    return 1 if figures[FAILED] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.run", description=(__doc__ or "").splitlines()[0])
    add_server_options(parser)
    parser.add_argument("--requests", type=int, default=60, help="number of requests (default: %(default)s)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--rate", type=_positive, help="mean arrivals per second")
    rate.add_argument(
        "--utilisation",
        type=_positive,
        default=0.7,
        help="share of time in which the server is busy (default: %(default)s)",
    )
    default_mix = "64x64x17=3,64x64x33=1,96x96x17=1"
    parser.add_argument(
        "--sizes", type=_mix, default=default_mix, help="height x width x frames = weight, ... (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default: %(default)s)")
    parser.add_argument(
        "--cancel-ratio",
        type=_share,
        default=0.2,
        help="share of requests that are cancelled (default: %(default)s)",
    )
    parser.add_argument("--preview-every", type=int, default=0, help="steps between previews (default: none)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of arrivals, sizes and cancellations (default: %(default)s)"
    )
    return parser


def _mix(text: str) -> dict[VideoShape, float]:
    try:
        return mix_from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number above 0")


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number from 0 to 1")


async def _run(url: str, traffic: Traffic, options: argparse.Namespace) -> tuple[Traffic, list[Outcome]]:
    prompts = [prompt.text for prompt in fixed_prompts(PROMPTS)]
    async with AsyncTextToVideo(Connection(url)) as client:
        if options.rate is None:
            seconds = await time_alone(client, list(traffic.mix), steps=traffic.steps, prompts=prompts)
            print(f"alone: {', '.join(f'{size} {s:.2f} s' for size, s in seconds.items())}", file=sys.stderr)
            traffic = replace(traffic, rate_per_s=rate_for(options.utilisation, seconds, traffic))
        print(f"{traffic.requests} requests, {traffic.rate_per_s:.3f} a second", file=sys.stderr)
        planned = plan_requests(traffic, prompts)
        return traffic, await drive(client, planned, steps=traffic.steps, preview_every=options.preview_every)


def report(traffic: Traffic, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Compute the figures of a run."""
    counts = Counter(outcome.ended for outcome in outcomes)
    finished = [outcome for outcome in outcomes if outcome.ended == FINISHED]
    span_s = max(o.ended_s for o in outcomes) - min(o.arrived_s for o in outcomes)
    return {
        "requests": traffic.requests,
        "rate_per_s": round(traffic.rate_per_s, 4),
        "steps": traffic.steps,
        "cancel_ratio": traffic.cancel_ratio,
        "seed": traffic.seed,
        **{name: counts[name] for name in (FINISHED, CANCELLED, REFUSED, FAILED)},
        "videos_per_s": round(len(finished) / span_s, 4),
        "span_s": round(span_s, 1),
        "latency_s": {
            str(size): summary(o.ended_s - o.arrived_s for o in finished if o.size == size) for size in traffic.mix
        },
        "queue_wait_s": summary(o.queue_wait_s for o in outcomes if o.queue_wait_s is not None),
        "step_gap_s": summary(gap for o in outcomes for gap in o.gaps_s),
        "late_s": round(max(o.late_s for o in outcomes), 4),
        "errors": [o.error for o in outcomes if o.error][:5],
    }


if __name__ == "__main__":
    sys.exit(main())
