"""Latency of the endpoints: the cost of progress and previews, and the gain of four concurrent callers.

    make bench        or        python -m benchmarks.latency.endpoints --rounds 9

The checkpoint is that of `generation.py`, on one warm server. In each round the same request goes through the unary
endpoint, the streaming endpoint, and the streaming endpoint with a preview at every step, in rotating order. All three
must return the same bytes. Ratios are medians of the rounds' ratios, so that slow changes of the machine's speed cancel
out. Then four requests are sent one after another and concurrently, alternating. The last line printed is JSON:

* `stream_over_unary`: streaming endpoint, which always sends progress, over unary endpoint, which sends none;
* `previews_over_stream`: with a preview at each step over without; `previews_over_unary`: both together;
* `four_at_once`: throughput of four concurrent callers of the streaming endpoint over four sequential calls.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wan_t2v_client import Connection, TextToVideo

from benchmarks.harness.installed_copy import CHECKPOINT, install_copy
from benchmarks.harness.machine import provenance
from embedded.options import ServerOptions
from embedded.server import running_server

PROMPT, SEED = "a red ball rolls left", 7
AT_ONCE = 4
WAYS = ("unary", "stream", "previews")
RATIOS = {
    "stream_over_unary": ("stream", "unary"),
    "previews_over_stream": ("previews", "stream"),
    "previews_over_unary": ("previews", "unary"),
}
Times = Mapping[str, Sequence[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.endpoints", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--concurrent-rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the server's)")
    options = parser.parse_args(arguments)
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
        copy = install_copy(options.checkpoint, options.repository, Path(folder))
        with running_server(ServerOptions(repository=copy.repository, log=Path(folder) / "log")) as server:
            fields = {"seed": SEED, "num_inference_steps": options.steps}
            by_endpoint = _compare_endpoints(server.grpc_url, options.rounds, fields)
            together = _together(server.grpc_url, options.concurrent_rounds, options.steps)
    print(json.dumps({**by_endpoint, **together, "rounds": options.rounds, "steps": options.steps, **about}))
    return 0


def _compare_endpoints(url: str, rounds: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    with TextToVideo(Connection(url)) as client:
        ways: dict[str, Callable[[], bytes | None]] = {
            "unary": lambda: client.generate_unary(PROMPT, **fields).video,
            "stream": lambda: client.generate(PROMPT, **fields).video,
            "previews": lambda: client.generate(PROMPT, preview_every=1, **fields).video,
        }
        if len({ways[name]() for name in (*WAYS, *WAYS)}) != 1:  # also warms up
            raise SystemExit("error: the endpoints made different videos of the same request; see make test")
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(rounds):
            for name in rotate(WAYS, number):
                seconds[name].append(_time_call(ways[name]))
            print(f"round {number + 1}: {_format_times(seconds)}", file=sys.stderr)
    return endpoint_figures(seconds)


def rotate(ways: Sequence[str], number: int) -> list[str]:
    """Rotate the ways by `number`, so that each round begins with another one."""
    first = number % len(ways)
    return [*ways[first:], *ways[:first]]


def endpoint_figures(seconds: Times) -> dict[str, Any]:
    """Compute each way's median seconds, and the medians of the rounds' ratios."""
    medians = {f"{name}_s": round(statistics.median(times), 4) for name, times in seconds.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True)), 4)
        for name, (above, below) in RATIOS.items()
    }
    return {**medians, **ratios}


def _together(url: str, rounds: int, steps: int | None) -> dict[str, Any]:
    def one(seed: int) -> None:
        with TextToVideo(Connection(url)) as client:
            client.generate(PROMPT, seed=seed, num_inference_steps=steps)

    in_turn, at_once = [], []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(1, rounds + 1):
            in_turn.append(_time_call(lambda: list(map(one, range(AT_ONCE)))))
            at_once.append(_time_call(lambda: list(pool.map(one, range(AT_ONCE)))))
            print(f"four, round {number}: in turn {in_turn[-1]:.2f} s, at once {at_once[-1]:.2f} s", file=sys.stderr)
    ratio = statistics.median(a / b for a, b in zip(in_turn, at_once, strict=True))
    return {
        "four_in_turn_videos_per_s": round(AT_ONCE / statistics.median(in_turn), 4),
        "four_at_once_videos_per_s": round(AT_ONCE / statistics.median(at_once), 4),
        "four_at_once": round(ratio, 4),
        "concurrent_rounds": rounds,
    }


def _format_times(seconds: Times) -> str:
    return ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())


def _time_call(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
