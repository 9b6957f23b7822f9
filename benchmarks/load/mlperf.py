"""Run two scenarios of MLPerf Inference's text-to-video benchmark, unofficially (differences: `DIFFERS`).

    python -m benchmarks.load.mlperf        or        ... --url HOST:PORT --queries 20 --samples 16

Every request has the same starting latents, 20 steps and the guidance scales 4.0 and 3.0, at the server's default size:
720x1280x81 with A14B, a small size with wan-mini. The last line printed is JSON:

* SingleStream: 90th percentile latency of sequential queries;
* Offline: samples per second, with at most `--at-once` concurrent requests;
* `distinct`: number of different videos. Fewer than prompts would mean that videos come from a cache.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from wan_t2v_client import AsyncTextToVideo, ClientError, Connection, RetryPolicy

from benchmarks.harness.machine import provenance
from benchmarks.harness.percentiles import percentile, summary
from benchmarks.harness.server_under_test import add_server_options, server_under_test
from training.world.prompts import fixed_prompts

DIFFERS = (
    "measured by this program, not by MLPerf's LoadGen",
    "prompts of training/world/prompts.py, not the 248 of VBench",
    "starting latents drawn from a seed here, not MLPerf's file",
    "the server's negative prompt and flow shift",
    "no accuracy gate: nothing is scored",
)
STEPS, GUIDANCE_SCALE, GUIDANCE_SCALE_2 = 20, 4.0, 3.0
LATENT_SEED = 42
QUERIES = 50
_TRIES = RetryPolicy(attempts=1000, longest_wait_s=5.0)


@dataclass(frozen=True)
class Workload:
    """Fields that all requests share, and the prompts, which differ."""

    fields: dict[str, Any]
    prompts: tuple[str, ...]

    def prompt(self, index: int) -> str:
        """Return the prompt of a request. Prompts repeat in order."""
        return self.prompts[index % len(self.prompts)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both scenarios. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load.mlperf", description=(__doc__ or "").splitlines()[0]
    )
    add_server_options(parser)
    parser.add_argument("--queries", type=int, default=QUERIES, help="queries of SingleStream (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=48, help="samples of Offline (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=16, help="concurrent samples of Offline (default: %(default)s)")
    options = parser.parse_args(arguments)
    about = provenance()
    with (
        tempfile.TemporaryDirectory(prefix="wan-t2v-mlperf-") as name,
        server_under_test(options.url, options.repository, Path(name)) as url,
    ):
        results = asyncio.run(_measure(url, options))
    print(json.dumps({**results, **about}))
    return 0


async def _measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncTextToVideo(Connection(url), retry=_TRIES) as client:
        workload = await _workload(client)
        for _ in range(2):
            await _video(client, workload, 0)
        single, single_videos = await _single_stream(client, workload, options.queries)
        offline, videos = await _offline(client, workload, options.samples, at_once=options.at_once)
    pixels = "{height}x{width}x{num_frames}".format(**workload.fields)
    return {
        "official": False,
        "differs": list(DIFFERS),
        "size": pixels,
        "steps": STEPS,
        "guidance": [GUIDANCE_SCALE, GUIDANCE_SCALE_2],
        "single_stream": single,
        "offline": offline,
        "prompts": min(len(workload.prompts), max(options.queries, options.samples)),
        "distinct": len(single_videos | videos),
    }


async def _workload(client: AsyncTextToVideo) -> Workload:
    """Build the workload at the server's default size. A one-step request returns the size and latent shape."""
    answer = await client.generate("size", num_inference_steps=1, output_type="latents", seed=0)
    assert answer.latents is not None
    noise = np.random.default_rng(LATENT_SEED).standard_normal(answer.latents.shape).astype(np.float32)
    settings = answer.metadata["settings"]
    fields = {
        **{name: settings[name] for name in ("height", "width", "num_frames")},
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "guidance_scale_2": GUIDANCE_SCALE_2,
        "latents": noise,
    }
    return Workload(fields, tuple(prompt.text for prompt in fixed_prompts()))


async def _video(client: AsyncTextToVideo, workload: Workload, index: int) -> str:
    """Generate one video and return its SHA-256. Raises ClientError."""
    answer = await client.generate(workload.prompt(index), **workload.fields)
    if answer.video is None:
        raise ClientError("the server answered without a video")
    return hashlib.sha256(answer.video).hexdigest()


async def _single_stream(client: AsyncTextToVideo, workload: Workload, queries: int) -> tuple[dict[str, Any], set[str]]:
    seconds, videos = [], set()
    for index in range(queries):
        started = time.monotonic()
        videos.add(await _video(client, workload, index))
        seconds.append(time.monotonic() - started)
        _tell("SingleStream", index + 1, queries)
    return {"queries": queries, "p90_s": round(percentile(seconds, 90), 4), "latency_s": summary(seconds)}, videos


async def _offline(
    client: AsyncTextToVideo, workload: Workload, samples: int, *, at_once: int
) -> tuple[dict[str, Any], set[str]]:
    places, ended = asyncio.Semaphore(at_once), 0

    async def one(index: int) -> str:
        nonlocal ended
        async with places:
            video = await _video(client, workload, index)
        ended += 1
        _tell("Offline", ended, samples)
        return video

    started = time.monotonic()
    videos = set(await asyncio.gather(*(one(index) for index in range(samples))))
    seconds = time.monotonic() - started
    return {"samples": samples, "at_once": at_once, "samples_per_s": round(samples / seconds, 4)}, videos


def _tell(scenario: str, ended: int, of: int) -> None:
    if ended % 10 == 0 or ended == of:
        print(f"{scenario}: {ended} of {of}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
