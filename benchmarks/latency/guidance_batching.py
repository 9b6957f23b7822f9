"""Guidance batching: time and bytes of videos with and without batching an expert's passes in Triton.

    python -m benchmarks.latency.guidance_batching

Three ways to run an expert on two cores, each on its own server: two instances with one thread each, one instance with
two threads, and one instance with two threads and Triton's dynamic batcher. Each prints one JSON line: seconds of a
single generation, seconds of two concurrent ones, and whether all MP4s have the same bytes.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wan_t2v_client import Connection, TextToVideo

from benchmarks.harness.machine import provenance
from benchmarks.harness.repository_copy import copy_repository
from embedded.options import ServerOptions
from embedded.server import Server, running_server

PROMPT = "a red ball rolls left"
SEED = 7
EXPERTS = ("high_noise_expert", "low_noise_expert")


@dataclass(frozen=True)
class Layout:
    """Instances, threads and batching of the experts."""

    name: str
    instances: int
    threads: int
    merge: bool


LAYOUTS = (
    Layout("two instances of one thread", instances=2, threads=1, merge=False),
    Layout("one instance of two threads", instances=1, threads=2, merge=False),
    Layout("one instance of two threads, merging", instances=1, threads=2, merge=True),
)


def main() -> int:
    """Measure every layout. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for layout in LAYOUTS:
        about = provenance()
        with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
            repository = copy_repository(options.repository, Path(folder))
            for expert in EXPERTS:
                _apply(layout, repository / expert / "configs/cpu.pbtxt")
            with running_server(ServerOptions(repository=repository, log=Path(folder) / "log")) as server:
                print(json.dumps({"layout": layout.name, **_measure(server, options.rounds), **about}), flush=True)
    return 0


def _apply(layout: Layout, config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    text = re.sub(r"count: \d+", f"count: {layout.instances}", text)
    text = re.sub(r'(key: "threads".*string_value: ")\d+', rf"\g<1>{layout.threads}", text)
    if layout.merge:
        text = re.sub(r"max_batch_size: \d+", "max_batch_size: 4", text)
        text += "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
    config.write_text(text, encoding="utf-8")


def _measure(server: Server, rounds: int) -> dict[str, object]:
    alone = [_generate(server) for _ in range(rounds + 2)][2:]
    together = [_together(server, 2) for _ in range(rounds)]
    videos = {video for _, video in alone} | {video for _, group in together for video in group}
    return {
        "alone_s": round(statistics.median(seconds for seconds, _ in alone), 3),
        "two_at_once_s": round(statistics.median(seconds for seconds, _ in together), 3),
        "same_bytes": len(videos) == 1,
        "passes_per_execution": _passes_per_execution(server),
    }


def _generate(server: Server) -> tuple[float, bytes]:
    with TextToVideo(Connection(server.grpc_url)) as client:
        started = time.monotonic()
        video = client.generate_unary(PROMPT, seed=SEED).video
        assert video is not None
        return time.monotonic() - started, video


def _together(server: Server, count: int) -> tuple[float, list[bytes]]:
    started = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        videos = [video for _, video in pool.map(lambda _: _generate(server), range(count))]
    return time.monotonic() - started, videos


def _passes_per_execution(server: Server) -> float:
    """Return the mean batch of the experts from the server's counters: 1.0 without batching."""
    with TextToVideo(Connection(server.grpc_url)) as client:
        experts = [model for model in client.models() if model["name"] in EXPERTS]
    passes, executions = (sum(int(model[key]) for model in experts) for key in ("requests", "executions"))
    return round(passes / executions, 2)


if __name__ == "__main__":
    sys.exit(main())
