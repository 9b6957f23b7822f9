"""Compare this server with diffusers' pipeline behind PyTriton and behind FastAPI, on the same weights.

    python -m benchmarks.baselines.comparison --rounds 5

Three servers run on the loopback interface, and one works at a time: this project's streaming endpoint, and the
programs `pytriton_server.py` and `fastapi_server.py` beside this file. The checkpoint is the benchmarks' one, with
random weights, since time does not depend on them, and experts large enough for their passes to dominate. First the
three videos of one seed are decoded and compared. Then the benchmark measures, alternating between servers, single
requests and four concurrent ones. Last, a caller cancels a video after a second, and the next one asks for a single
step. The last line printed is JSON, by server:

* `alone_s`: median latency of single requests; `over_ours`: median of the rounds' ratios to this server's;
* `four_at_once_videos_per_s`: throughput with four concurrent requests;
* `one_step_s`: latency of a request of one step on the idle server; `one_step_after_leaving_s`: the same just after a
  full generation was cancelled. The difference is the time for which the server continued the cancelled generation.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.baselines.psnr import psnr_db
from benchmarks.baselines.servers import VideoServer, running_servers
from benchmarks.harness.installed_copy import CHECKPOINT, install_copy
from benchmarks.harness.machine import provenance

SEED = 7
AT_ONCE = 4
LEAVES_AFTER_S = 1.0
SAME_VIDEO_DB = 35.0  # measured after H.264: 42 for frames that differ by rounding, 16 for another seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    options = _parser().parse_args(arguments)
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as name:
        folder = Path(name)
        copy = install_copy(options.checkpoint, options.repository, folder)
        with running_servers(copy, folder, threads=options.threads) as servers:
            likeness = _check_same(servers, options.steps)
            measured = _measure(servers, options)
    by_server = {name: {**figures, "psnr_to_ours_db": likeness[name]} for name, figures in measured.items()}
    given = {"rounds": options.rounds, "steps": options.steps, "diffusers_threads": options.threads}
    print(json.dumps({"servers": by_server, **given, **about}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.baselines.comparison", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of latencies alone (default: %(default)s)")
    parser.add_argument(
        "--concurrent-rounds", type=int, default=1, help="rounds of four callers at once (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: the server's)")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="torch's threads in diffusers' servers (default: %(default)s)",
    )
    return parser


def _check_same(servers: Sequence[VideoServer], steps: int | None) -> dict[str, float]:
    """Return each server's PSNR to this server's video. Exits if a video differs, since times would mean nothing.

    These calls also warm up the servers.
    """
    videos = {server.name: server.generate(SEED, steps) for server in servers}
    likenesses = {name: round(psnr_db(video, videos["ours"]), 1) for name, video in videos.items()}
    for name, likeness in likenesses.items():
        if likeness < SAME_VIDEO_DB:
            raise SystemExit(f"error: {name} made another video than ours: {likeness} dB, needed {SAME_VIDEO_DB}")
    return likenesses


def _measure(servers: Sequence[VideoServer], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    steps: int | None = options.steps
    alone: dict[str, list[float]] = {server.name: [] for server in servers}
    together: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(1, options.rounds + 1):
        for server in servers:
            alone[server.name].append(_time_call(functools.partial(server.generate, SEED, steps)))
        _tell(f"round {number}", alone)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(1, options.concurrent_rounds + 1):
            for server in servers:
                together[server.name].append(_time_call(functools.partial(_four, pool, server, steps)))
            _tell(f"four at once, round {number}", together)
    left = {server.name: _after_leaving(server) for server in servers}
    return {name: {**figures(alone, together)[name], **left[name]} for name in alone}


def figures(
    alone: Mapping[str, Sequence[float]], together: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, float]]:
    """Compute by server: median latency of single requests, its ratio to this server's, and throughput."""
    return {
        name: {
            "alone_s": round(statistics.median(seconds), 4),
            "over_ours": round(statistics.median(a / b for a, b in zip(seconds, alone["ours"], strict=True)), 4),
            "four_at_once_videos_per_s": round(AT_ONCE / statistics.median(together[name]), 4),
        }
        for name, seconds in alone.items()
    }


def _four(pool: ThreadPoolExecutor, server: VideoServer, steps: int | None) -> None:
    list(pool.map(lambda seed: server.generate(seed, steps), range(AT_ONCE)))


def _after_leaving(server: VideoServer) -> dict[str, float]:
    idle_s = statistics.median(_time_call(lambda: server.generate(SEED, 1)) for _ in range(3))
    server.leave(LEAVES_AFTER_S)
    busy_s = _time_call(lambda: server.generate(SEED, 1))
    return {"one_step_s": round(idle_s, 4), "one_step_after_leaving_s": round(busy_s, 4)}


def _tell(what: str, seconds: Mapping[str, Sequence[float]]) -> None:
    print(f"{what}: {', '.join(f'{name} {times[-1]:.2f} s' for name, times in seconds.items())}", file=sys.stderr)


def _time_call(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
