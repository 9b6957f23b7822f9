"""Compare a generation through Triton with diffusers in one process: same weights, both warm, alternating.

    make bench        or        python -m benchmarks.latency.generation --rounds 5

The checkpoint is that of `make mini`. It has random weights, since time does not depend on them, and experts large
enough for their passes to dominate. It is exported and installed in the benchmark's own copy of the repository. Both
make the default video and encode the same MP4. diffusers gets Wan's timesteps, inference mode and the better of one and
two threads. Triton's text embeddings come from its response cache, as for any repeated prompt; diffusers computes them
in a few milliseconds. The two videos are compared before the timing. The last line printed is JSON:

* `triton_s`, `diffusers_s`: medians; `ratio`: median of the rounds' ratios;
* `outside_graphs`: share of a generation's wall time through Triton in which no engine ran, and its parts:
* `step_gap_ms`: median gap between engine calls, nearly all of them between two steps;
* `longest_gap_ms`: the longest of these; in a clip of more latent frames than the VAE's first graph decodes, its caches
  on their way to the next one;
* `after_last_graph_ms`: conversion to pixels, MP4 and response.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wan_t2v_client import Connection, TextToVideo

from benchmarks.baselines.diffusers_pipeline import Diffusers
from benchmarks.harness.installed_copy import CHECKPOINT, install_copy
from benchmarks.harness.intervals import covered_ns, gaps_ns, read_intervals
from benchmarks.harness.machine import provenance
from benchmarks.harness.repository_copy import log_intervals
from embedded.options import ServerOptions
from embedded.server import running_server

PROMPT = "a red ball rolls left"
SEED = 7


def main() -> int:
    """Run the comparison. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the server's)")
    options = parser.parse_args()
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
        copy = install_copy(options.checkpoint, options.repository, Path(folder))
        diffusers = Diffusers(copy.checkpoint, copy.exported)
        log = log_intervals(copy.repository, Path(folder) / "intervals")
        with (
            running_server(ServerOptions(repository=copy.repository, log=Path(folder) / "log")) as server,
            TextToVideo(Connection(server.grpc_url)) as client,
        ):
            ours = functools.partial(client.generate_unary, PROMPT, seed=SEED, num_inference_steps=options.steps)
            theirs = functools.partial(diffusers.generate, PROMPT, seed=SEED, steps=options.steps)
            _check_same(ours(output_type="frames").frames, diffusers.frames(PROMPT, seed=SEED, steps=options.steps))
            result = _alternate(ours, theirs, options.rounds, log)
    print(json.dumps({**result, "rounds": options.rounds, "steps": options.steps, **about}))
    return 0


def _check_same(ours: NDArray[np.uint8] | None, theirs: NDArray[np.uint8]) -> None:
    """Exit if the videos differ by more than rounding, since a comparison of times would mean nothing."""
    if ours is None or int(np.abs(ours.astype(int) - theirs).max()) > 1:
        raise SystemExit("Triton and diffusers made different videos; see tests/server/requests/test_it_is_wan.py")


def take_better_thread_count(work: Callable[[], object]) -> int:
    """Warm up with one and two torch threads, keep the faster setting and return it."""
    seconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds[threads] = min(time_call(work) for _ in range(2))
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return best


def _alternate(triton: Callable[[], Any], diffusers: Callable[[], object], rounds: int, log: Path) -> dict[str, Any]:
    threads = take_better_thread_count(diffusers)
    for _ in range(3):
        triton()
    triton_s, diffusers_s, spans = [], [], []
    for number in range(1, rounds + 1):
        started = time.monotonic_ns()
        triton()
        spans.append((started, time.monotonic_ns()))
        triton_s.append((spans[-1][1] - spans[-1][0]) / 1e9)
        diffusers_s.append(time_call(diffusers))
        print(f"round {number}: Triton {triton_s[-1]:.2f} s, diffusers {diffusers_s[-1]:.2f} s", file=sys.stderr)
    intervals = read_intervals(log)
    outside = [1 - covered_ns(intervals, span) / (span[1] - span[0]) for span in spans]
    gaps = [gaps_ns(intervals, span) for span in spans]
    return {
        "triton_s": round(statistics.median(triton_s), 3),
        "diffusers_s": round(statistics.median(diffusers_s), 3),
        "ratio": round(statistics.median(a / b for a, b in zip(triton_s, diffusers_s, strict=True)), 3),
        "outside_graphs": round(statistics.median(outside), 4),
        "step_gap_ms": _median_ms(gap for lengths in gaps for gap in lengths),
        "longest_gap_ms": _median_ms(max(lengths[:-1]) for lengths in gaps),
        "after_last_graph_ms": _median_ms(lengths[-1] for lengths in gaps),
        "diffusers_threads": threads,
    }


def _median_ms(lengths_ns: Iterable[int]) -> float:
    return round(statistics.median(lengths_ns) / 1e6, 2)


def time_call(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
