"""Embedded server with every model on the GPU: tensors between processes, videos, memory, slow loads.

Each measurement is its own row, so a server that dies in one does not affect the others. The graphs of the installed
checkpoint, usually wan-mini, run in torch. On a CPU the same models run there, which tests the code only.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.processes import gpu_processes
from benchmarks.gpu.repository import PROBES, enable_expert_swap, gpu_repository, slow_load
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Row, Skipped, attempt
from benchmarks.harness.repository_copy import log_intervals

PROMPT, SEED = "a red ball rolls left", 7
DEFAULT_POOL_BYTES = 64 * 2**20  # Triton's own
CALL_LIMIT_S = 100.0
SLOW_MODEL = "low_noise_expert"
# Warnings and errors in Triton's log.
_TOLD = re.compile(r"^[WE]\d{4}.*", re.MULTILINE)
_TOLD_LIMIT = 12


def server(scale: Scale, *, repository: Path, keep: Path | None = None) -> Iterator[Row]:
    """Yield rows for Triton's default pool, a large pool, and a slow load. `keep` is a folder for videos and logs."""
    yield from attempt({"what": "process"}, _process)
    for pool in (DEFAULT_POOL_BYTES, scale.pool_bytes):
        rows = list(_with_pool(scale, repository, pool, keep))
        yield from rows
        if on_gpu(scale) and pool == DEFAULT_POOL_BYTES and not any("seconds" in row for row in rows):
            yield from _attempt_on_cpu(scale, repository, pool, keep)
    yield from _during_a_slow_load(scale, repository, keep)


def on_gpu(scale: Scale) -> bool:
    """Whether the models are placed on a GPU."""
    return torch.device(scale.device).type == "cuda"


def _process() -> Row:
    """Describe the environment of the servers: user, Python, libraries, shared memory."""
    shared = os.statvfs("/dev/shm")  # noqa: S108  where Triton's processes exchange tensors
    return {
        "uid": os.getuid(),
        "python": f"{sys.version.split()[0]} at {sys.executable}",
        "numpy": np.__version__,
        "torch": torch.__version__,
        "shared_memory_gib": shared.f_blocks * shared.f_frsize / 2**30,
    }


def _attempt_on_cpu(scale: Scale, repository: Path, pool: int, keep: Path | None) -> Iterator[Row]:
    """Repeat the measurements on the CPU, after none succeeded on the GPU, to tell the cause apart."""
    for row in _with_pool(replace(scale, device="cpu"), repository, pool, keep):
        yield {**row, "device": "cpu"}


def _with_pool(scale: Scale, repository: Path, pool: int, keep: Path | None) -> Iterator[Row]:
    """Yield rows: probes from small to larger than the pool, videos through both endpoints, memory, log messages."""
    about = {"pool_mib": pool // 2**20}

    def measure(url: str, copy: Path) -> Iterator[Row]:
        for mib in scale.probe_mib:
            values = int(mib * 2**18)
            yield from attempt({**about, "what": "probe", "mib": mib}, partial(_probe, url, values=values, repeats=6))
        for endpoint in ("stream", "unary"):
            videos = partial(_videos, url, scale, endpoint, intervals=copy.parent / "intervals", keep=keep)
            yield from attempt({**about, "what": "video", "endpoint": endpoint}, videos)
        yield from attempt({**about, "what": "memory"}, gpu_processes)
        yield from attempt({**about, "what": "empty"}, lambda: _probe(url, values=0, repeats=2))
        yield from attempt({**about, "what": "after empty"}, lambda: _probe(url, values=16, repeats=2))

    yield from _measure_on_server(scale, repository, about, measure, pool=pool, keep=keep)


def _measure_on_server(
    scale: Scale,
    repository: Path,
    about: Row,
    measure: Callable[[str, Path], Iterator[Row]],
    *,
    pool: int = DEFAULT_POOL_BYTES,
    change: Callable[[Path], object] = lambda copy: None,
    keep: Path | None = None,
) -> Iterator[Row]:
    """Start a server, yield its start, the rows of `measure`, and a row with its log's messages.

    `change` edits the repository's copy before the start.
    """
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as name:
        log = (keep or Path(name)) / f"server-{pool // 2**20}{'-slow' if 'what' in about else ''}.log"
        rows: list[Row] = []

        def run() -> Row:
            options, running_server = _options(scale, repository, Path(name), log=log, pool=pool)
            change(options.repository)
            started = time.monotonic()
            with running_server(options) as running:
                ready_s = time.monotonic() - started
                rows.extend(measure(running.grpc_url, options.repository))
            return {"ready_s": ready_s}

        last = list(attempt({**about, "what": "server"}, run))
        yield from last
        yield from rows
        yield {**about, "what": "log", "told": log_messages(log)}


def _options(scale: Scale, repository: Path, folder: Path, *, log: Path, pool: int) -> tuple[Any, Any]:
    """Return the options of a server on a copy of the repository, and the function that runs it.

    Raises Skipped if no checkpoint is installed, or the server cannot be imported.
    """
    if not (repository / "prepare/1/model_facts.json").exists():
        raise Skipped(f"nothing is installed in {repository}: make export")
    try:
        from embedded.options import ServerOptions
        from embedded.server import running_server
        from embedded.wheel import installed_wheel

        installed_wheel()
    except Exception as error:
        raise Skipped(f"{error}: make setup") from error
    copy = gpu_repository(repository, folder, on_gpu=on_gpu(scale))
    log_intervals(copy, folder / "intervals")
    pool_bytes = pool if on_gpu(scale) else None
    options = ServerOptions(repository=copy, log=log, cuda_pool_bytes=pool_bytes, start_limit_s=scale.start_limit_s)
    return options, running_server


def _probe(url: str, *, values: int, repeats: int) -> Row:
    """Call the probe with a tensor of `values` numbers and return its report. Raises RuntimeError for its error."""
    from tritonclient.grpc import InferenceServerClient, InferInput

    question = InferInput("asked", [1], "BYTES")
    question.set_data_from_numpy(
        np.array([json.dumps({"values": values, "repeats": repeats}).encode()], dtype=np.object_)
    )
    with InferenceServerClient(url) as client:
        answer = client.infer(PROBES[0], [question], client_timeout=CALL_LIMIT_S)
    row: Row = json.loads(answer.as_numpy("told")[0])
    if "error" in row:
        raise RuntimeError(row["error"])
    return row


def _videos(url: str, scale: Scale, endpoint: str, *, intervals: Path, keep: Path | None) -> Row:
    """Generate the same video several times: time of the first and of later ones, and whether the bytes are equal."""
    from wan_t2v_client import Connection, TextToVideo

    from benchmarks.harness.intervals import covered_ns, gaps_ns, read_intervals

    with TextToVideo(Connection(url)) as client:
        generate = client.generate if endpoint == "stream" else client.generate_unary
        spans, videos = [], []
        for _ in range(1 + scale.repeats):
            started = time.monotonic_ns()
            answer = generate(PROMPT, seed=SEED, num_inference_steps=scale.steps, deadline_s=CALL_LIMIT_S)
            videos.append(answer.video or b"")
            spans.append((started, time.monotonic_ns()))
    if keep:
        (keep / f"{endpoint}.mp4").write_bytes(videos[-1])
    passes, last = read_intervals(intervals), spans[-1]
    return {
        "steps": scale.steps,
        "video_bytes": len(videos[-1]),
        "same_bytes": len(set(videos)) == 1,
        "first_s": (spans[0][1] - spans[0][0]) / 1e9,
        "seconds": min(end - start for start, end in spans[1:]) / 1e9,
        "outside_graphs": 1 - covered_ns(passes, last) / (last[1] - last[0]),
        "longest_gap_ms": max(gaps_ns(passes, last)) / 1e6,
    }


def _during_a_slow_load(scale: Scale, repository: Path, keep: Path | None) -> Iterator[Row]:
    """Measure whether the client with its default settings gets its video although an expert loads slowly."""
    about = {"what": "slow load", "load_s": scale.slow_load_s}

    def measure(url: str, copy: Path) -> Iterator[Row]:
        def wait() -> Row:
            from wan_t2v_client import Connection, TextToVideo

            slow_load(copy, SLOW_MODEL, scale.slow_load_s)
            started = time.monotonic()
            try:
                with TextToVideo(Connection(url)) as client:
                    video = client.generate(PROMPT, seed=SEED, num_inference_steps=scale.steps).video or b""
            except Exception as error:
                raise RuntimeError(f"after {time.monotonic() - started:.1f} s: {error}") from error
            return {"seconds": time.monotonic() - started, "video_bytes": len(video)}

        yield from attempt(about, wait)

    yield from _measure_on_server(scale, repository, about, measure, change=enable_expert_swap, keep=keep)


def log_messages(log: Path) -> list[str]:
    """List each kind of warning and error in Triton's log once, with its count."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    kinds: dict[str, int] = {}
    for line in _TOLD.findall(text):
        message = re.sub(r"0x[0-9a-f]+|\d{5,}", "N", line.partition("]")[2].strip())[:300]
        kinds[message] = kinds.get(message, 0) + 1
    return [f"{count} x {message}" for message, count in list(kinds.items())[:_TOLD_LIMIT]]
