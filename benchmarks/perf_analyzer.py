"""NVIDIA's perf_analyzer on the unary door, with a fixed number of requests at concurrency 1 and 2.

    make perf        or        python -m benchmarks.perf_analyzer --requests 10

perf_analyzer's time windows are made for milliseconds; a fixed request count measures videos rightly. Its table,
composing models included, is printed as it comes; one JSON line last.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import provenance
from benchmarks.repository_copy import GRAPHS
from embedded.options import ServerOptions
from embedded.server import running_server
from embedded.wheel import installed_wheel

CONCURRENCIES = (1, 2)
# what the binary asks the loader for, and what the server's wheel calls it
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


def main() -> int:
    """Start a server, run perf_analyzer, print its tables. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--requests", type=int, default=10, help="requests at each concurrency (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the server's)")
    options = parser.parse_args()
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-perf-") as name:
        folder = Path(name)
        inputs = _input_data(folder, options.steps)
        with running_server(ServerOptions(repository=options.repository, log=folder / "log")) as server:
            measured = {
                f"concurrency_{concurrency}": _measured(server.grpc_url, inputs, concurrency, options.requests, folder)
                for concurrency in CONCURRENCIES
            }
    print(json.dumps({"requests": options.requests, **measured, **about}))
    return 0


def _input_data(folder: Path, steps: int | None) -> Path:
    path = folder / "inputs.json"
    fields: dict[str, list[object]] = {"prompt": ["a red ball rolls left"], "seed": [7]}
    if steps is not None:
        fields["num_inference_steps"] = [steps]
    path.write_text(json.dumps({"data": [fields]}), encoding="utf-8")
    return path


def _measured(url: str, inputs: Path, concurrency: int, requests: int, folder: Path) -> dict[str, float]:
    command = [
        str(Path(sys.executable).with_name("perf_analyzer")),
        *("-m", "text_to_video", "-i", "grpc", "-u", url),
        *("--input-data", str(inputs)),
        f"--bls-composing-models={','.join(GRAPHS)}",
        f"--concurrency-range={concurrency}",
        f"--request-count={requests}",
        "--warmup-request-count=2",
    ]
    environment = {"LD_LIBRARY_PATH": str(_plainly_named_libraries(folder / f"lib{concurrency}"))}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(finished.stdout, flush=True)
    if finished.returncode:
        raise SystemExit(f"perf_analyzer ended with exit code {finished.returncode}")
    return _figures(finished.stdout)


def _plainly_named_libraries(folder: Path) -> Path:
    """Links to two libraries of the server's wheel under the names that perf_analyzer looks for."""
    folder.mkdir()
    for wanted, pattern in _LIBRARIES.items():
        (folder / wanted).symlink_to(next(installed_wheel().libraries.glob(pattern)))
    return folder


def _figures(output: str) -> dict[str, float]:
    throughput = re.search(r"Throughput: ([\d.]+) infer/sec", output)
    latency = re.search(r"Avg latency: (\d+) usec", output)
    if throughput is None or latency is None:
        raise SystemExit("perf_analyzer printed no throughput or latency")
    return {"videos_per_s": float(throughput[1]), "latency_s": int(latency[1]) / 1e6}


if __name__ == "__main__":
    sys.exit(main())
