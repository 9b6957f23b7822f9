"""Time one pass of an expert in each precision, alternating in one process, without a server.

    python -m benchmarks.latency.precisions build/training-wan-mini build/training-wan-mini-int8

The folders are exports of one checkpoint (`make export`, `make export PRECISION=int8`). The first is the reference. The
high-noise expert runs one pass at the benchmarks' size (128x128, 17 frames) on `--threads` threads in ONNX Runtime. On
a CPU with BF16, OpenVINO runs the reference too, in FP32 and in BF16. The last line printed is JSON, by precision:

* `ms`: median milliseconds;
* `speed`: relative to the reference, the median of the rounds' ratios;
* `error`: Euclidean norm of the velocity's difference over that of the reference's velocity, on random latents.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.bf16 import bf16_is_missing
from benchmarks.harness.machine import provenance
from benchmarks.latency.endpoints import rotate
from export.manifest import onnx_file
from wan_t2v.contract import EXPERTS
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.loader import INFERENCE_PRECISIONS
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, read_manifest
from wan_t2v.shapes import VideoShape

GRAPH = EXPERTS[0]
CLIP = VideoShape(17, 128, 128)
TIMESTEP = 950.0
WARM_UP = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.precisions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("exported", type=Path, nargs="+", help="folders of exported graphs; the first is the reference")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    about = provenance()
    inputs = random_inputs(ModelFacts.read(options.exported[0]))
    engines = load_engines(options.exported, threads=options.threads)
    velocities = {name: [engine(inputs)["velocity"] for _ in range(WARM_UP)][0] for name, engine in engines.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(options.rounds):
        for name in rotate(list(engines), number):
            started = time.perf_counter()
            engines[name](inputs)
            milliseconds[name].append((time.perf_counter() - started) * 1e3)
    passes = pass_figures(milliseconds, velocities)
    print(json.dumps({"passes": passes, "threads": options.threads, "rounds": options.rounds, **about}))
    return 0


def load_engines(exported: Sequence[Path], *, threads: int) -> dict[str, Engine]:
    """Load the expert of each folder in ONNX Runtime, and where there is BF16 the first one's in OpenVINO, by name."""
    engines: dict[str, Engine] = {
        read_manifest(GraphManifest, folder / GRAPH / GRAPH_MANIFEST).precision: OnnxRuntimeEngine(
            onnx_file(folder / GRAPH), threads=threads
        )
        for folder in exported
    }
    if reason := bf16_is_missing():
        print(f"OpenVINO in BF16 is not measured: {reason}", file=sys.stderr)
        return engines
    from wan_t2v.engines.openvino import OpenVinoEngine

    graph = onnx_file(exported[0] / GRAPH)
    for precision in INFERENCE_PRECISIONS:
        engines[f"OpenVINO {precision}"] = OpenVinoEngine(graph, threads=threads, precision=precision)
    return engines


def random_inputs(facts: ModelFacts) -> dict[str, NDArray[np.float32]]:
    """Return random inputs of the expert for a batch of one."""
    random = np.random.default_rng(0)
    latents = facts.grid.latent_shape(CLIP)
    shape = (1, latents.channels, latents.frames, latents.height, latents.width)
    return {
        "hidden_states": random.standard_normal(shape, dtype=np.float32),
        "timestep": np.full((1, 1), TIMESTEP, np.float32),
        "encoder_hidden_states": random.standard_normal((1, facts.text_length, facts.text_dim), dtype=np.float32),
    }


def pass_figures(
    milliseconds: Mapping[str, Sequence[float]], velocities: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, float]]:
    """Compute the figures of each precision. The first precision is the reference."""
    yardstick = next(iter(milliseconds))
    exact = velocities[yardstick]
    return {
        name: {
            "ms": round(statistics.median(times), 2),
            "speed": round(statistics.median(a / b for a, b in zip(milliseconds[yardstick], times, strict=True)), 3),
            "error": round(float(np.linalg.norm(velocities[name] - exact) / np.linalg.norm(exact)), 4),
        }
        for name, times in milliseconds.items()
    }


if __name__ == "__main__":
    sys.exit(main())
