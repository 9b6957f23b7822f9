"""A generation through Triton against diffusers in one process, alternating in one run, both warm, on the same weights.

    make bench        or        python -m benchmarks.generation --rounds 5

The checkpoint is the one that `make mini` makes: random weights, since time does not depend on them, and experts large
enough for a pass to be work. It is exported to a repository of the benchmark's own. Both make its default video and the
same MP4. diffusers gets Wan's timesteps, inference mode and the better of
one and two threads. Triton's text embeddings come from its cache, as for any repeated prompt; diffusers computes them
(a few milliseconds). Before anything is timed the two videos are compared. Printed last, as one JSON line: `triton_s`
and `diffusers_s` (medians), `ratio` (median of the rounds' ratios), `outside_graphs` (share of the wall time of a
generation through Triton in which no engine ran), and where that time goes: `step_gap_ms` (median gap; nearly all are
between two steps), `longest_gap_ms` (the VAE's caches on their way from graph to graph), `after_last_graph_ms` (pixels,
MP4, answer).
"""

import argparse
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
from diffusers import WanPipeline
from numpy.typing import NDArray
from wan_t2v_client import Connection, TextToVideo

from benchmarks.intervals import covered_ns, gaps_ns, logged_intervals
from benchmarks.machine import provenance
from benchmarks.repository_copy import copied_repository, log_intervals
from embedded.options import ServerOptions
from embedded.server import running_server
from export.exported import exported_checkpoint
from export.install import installed
from wan_t2v.facts import ModelFacts, ServingDefaults
from wan_t2v.mp4 import mp4_from_frames
from wan_t2v.schedule import official_sigmas

PROMPT = "a red ball rolls left"
SEED = 7


class Diffusers:
    """diffusers' own pipeline with the server's defaults, its timesteps and its starting noise."""

    def __init__(self, checkpoint: Path, defaults: ServingDefaults, text_length: int) -> None:
        self._pipeline = WanPipeline.from_pretrained(checkpoint, local_files_only=True)
        self._pipeline.set_progress_bar_config(disable=True)
        self._defaults = defaults
        self._text_length = text_length
        scheduler = self._pipeline.scheduler
        scheduler.register_to_config(flow_shift=defaults.flow_shift)
        own = scheduler.set_timesteps
        scheduler.set_timesteps = lambda steps, device=None: own(sigmas=official_sigmas(steps), device=device)

    def generate(self) -> bytes:
        """One MP4."""
        return mp4_from_frames(self.frames(), fps=self._defaults.fps)

    def frames(self) -> NDArray[np.uint8]:
        """The video's frames (T, H, W, 3)."""
        given = self._defaults
        with torch.inference_mode():
            video = self._pipeline(
                PROMPT,
                negative_prompt=given.negative_prompt,
                height=given.height,
                width=given.width,
                num_frames=given.num_frames,
                num_inference_steps=given.num_inference_steps,
                guidance_scale=given.guidance_scale,
                guidance_scale_2=given.guidance_scale_2,
                generator=torch.Generator().manual_seed(SEED),
                max_sequence_length=self._text_length,
                output_type="np",
            ).frames[0]
        frames: NDArray[np.uint8] = (video * 255).round().astype(np.uint8)
        return frames

    def take_better_thread_count(self) -> int:
        """Warm up with one and with two threads and keep the faster."""
        seconds = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seconds[threads] = min(_timed(self.generate) for _ in range(2))
        best = min(seconds, key=seconds.__getitem__)
        torch.set_num_threads(best)
        return best


def main() -> int:
    """Run the comparison. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/wan-mini"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about = provenance()
    exported = exported_checkpoint(options.checkpoint, Path("build") / options.checkpoint.name)
    facts, defaults = ModelFacts.read(exported), ServingDefaults.read(exported)
    diffusers = Diffusers(options.checkpoint, defaults, facts.text_length)
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
        repository = installed(exported, copied_repository(options.repository, Path(folder)))
        log = log_intervals(repository, Path(folder) / "intervals")
        with (
            running_server(ServerOptions(repository=repository, log=Path(folder) / "log")) as server,
            TextToVideo(Connection(server.grpc_url)) as client,
        ):
            _check_same(client.generate_unary(PROMPT, seed=SEED, output_type="frames").frames, diffusers.frames())
            result = _alternate(lambda: client.generate_unary(PROMPT, seed=SEED), diffusers, options.rounds, log)
    print(json.dumps({**result, "rounds": options.rounds, **about}))
    return 0


def _check_same(ours: NDArray[np.uint8] | None, theirs: NDArray[np.uint8]) -> None:
    """A comparison of times means nothing if the videos differ by more than a rounding."""
    if ours is None or int(np.abs(ours.astype(int) - theirs).max()) > 1:
        raise SystemExit("Triton and diffusers made different videos; see tests/server/test_it_is_wan.py")


def _alternate(triton: Callable[[], Any], diffusers: Diffusers, rounds: int, log: Path) -> dict[str, Any]:
    threads = diffusers.take_better_thread_count()
    for _ in range(3):
        triton()
    triton_s, diffusers_s, spans = [], [], []
    for number in range(1, rounds + 1):
        started = time.monotonic_ns()
        triton()
        spans.append((started, time.monotonic_ns()))
        triton_s.append((spans[-1][1] - spans[-1][0]) / 1e9)
        diffusers_s.append(_timed(diffusers.generate))
        print(f"round {number}: Triton {triton_s[-1]:.2f} s, diffusers {diffusers_s[-1]:.2f} s", file=sys.stderr)
    intervals = logged_intervals(log)
    outside = [1 - covered_ns(intervals, span) / (span[1] - span[0]) for span in spans]
    gaps = [gaps_ns(intervals, span) for span in spans]
    return {
        "triton_s": round(statistics.median(triton_s), 3),
        "diffusers_s": round(statistics.median(diffusers_s), 3),
        "ratio": round(statistics.median(a / b for a, b in zip(triton_s, diffusers_s, strict=True)), 3),
        "outside_graphs": round(statistics.median(outside), 4),
        "step_gap_ms": _median_ms(gap for found in gaps for gap in found),
        "longest_gap_ms": _median_ms(max(found[:-1]) for found in gaps),
        "after_last_graph_ms": _median_ms(found[-1] for found in gaps),
        "diffusers_threads": threads,
    }


def _median_ms(lengths_ns: Iterable[int]) -> float:
    return round(statistics.median(lengths_ns) / 1e6, 2)


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
