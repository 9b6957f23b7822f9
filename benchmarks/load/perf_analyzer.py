"""Run NVIDIA's perf_analyzer on both endpoints, with a fixed number of requests at concurrency 1 and 2.

    make perf      or      python -m benchmarks.load.perf_analyzer --requests 10      or      ... --url HOST:PORT

perf_analyzer's time windows suit latencies of milliseconds: with the default of 5 s a slow server gets "no valid
requests recorded", and a short window counts whichever requests end in it. `--request-count` measures exactly that many
requests. perf_analyzer's tables, with composing models, are printed as they come. The last line is JSON, with figures
computed from the time of every response (`benchmarks/load/profile_export.py`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_t2v_client import Connection, TextToVideo

from benchmarks.harness.machine import provenance
from benchmarks.harness.server_under_test import add_server_options, server_under_test
from benchmarks.load.profile_export import ExportError, figures, read_requests
from embedded.wheel import installed_wheel
from wan_t2v.contract import GRAPHS, VAE_DECODERS

CONCURRENCIES = (1, 2)
TRIES = 5
_TOO_LATE = "failed to find the requested model version"
# Shared libraries that perf_analyzer links to, and their file names in the server's wheel.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True)
class Endpoint:
    """A model that takes requests, and perf_analyzer's options for it."""

    name: str
    model: str
    options: tuple[str, ...] = ()


ENDPOINTS = (
    Endpoint("unary", "text_to_video"),
    Endpoint("stream", "text_to_video_stream", ("--streaming", "--async")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, run perf_analyzer, print its tables. Returns an exit code."""
    options = _parser().parse_args(arguments)
    about = provenance()
    wanted = [endpoint for endpoint in ENDPOINTS if not options.doors or endpoint.name in options.doors]
    with tempfile.TemporaryDirectory(prefix="wan-t2v-perf-") as name:
        folder = Path(name)
        inputs = _input_data(folder, options.steps)
        with server_under_test(options.url, options.repository, folder) as url:
            graphs = _called_graphs(url, options.steps)
            measured = {
                endpoint.name: {
                    f"concurrency_{concurrency}": _measure(
                        command_line(
                            endpoint,
                            url,
                            concurrency=concurrency,
                            requests=options.requests,
                            inputs=inputs,
                            graphs=graphs,
                        ),
                        folder / f"{endpoint.name}-{concurrency}",
                    )
                    for concurrency in CONCURRENCIES
                }
                for endpoint in wanted
            }
    print(json.dumps({"requests": options.requests, **measured, **about}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load.perf_analyzer", description=(__doc__ or "").splitlines()[0]
    )
    add_server_options(parser)
    parser.add_argument("--requests", type=int, default=10, help="requests at each concurrency (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the server's)")
    parser.add_argument("--doors", nargs="+", choices=[endpoint.name for endpoint in ENDPOINTS], help="default: both")
    return parser


def _fields(steps: int | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": "a red ball rolls left", "seed": 7}
    return fields if steps is None else {**fields, "num_inference_steps": steps}


def _called_graphs(url: str, steps: int | None) -> list[str]:
    """Return the graphs that a request calls: perf_analyzer gives up on a composing model that is not called.

    A short clip may be one call of the VAE's first graph.
    """
    with TextToVideo(Connection(url)) as client:
        before = _requests_of(client)
        client.generate_unary(**_fields(steps))
        after = _requests_of(client)
    return [graph for graph in GRAPHS if graph not in VAE_DECODERS or after[graph] > before[graph]]


def _requests_of(client: TextToVideo) -> dict[str, int]:
    return {str(model["name"]): int(model["requests"]) for model in client.models()}


def _input_data(folder: Path, steps: int | None) -> Path:
    path = folder / "inputs.json"
    fields = {name: [value] for name, value in _fields(steps).items()}
    path.write_text(json.dumps({"data": [fields]}), encoding="utf-8")
    return path


def command_line(
    endpoint: Endpoint, url: str, *, concurrency: int, requests: int, inputs: Path, graphs: Sequence[str] = GRAPHS
) -> list[str]:
    """Return perf_analyzer's command line, to which the caller adds `--profile-export-file`."""
    return [
        str(Path(sys.executable).with_name("perf_analyzer")),
        *("-m", endpoint.model, "-i", "grpc", "-u", url, *endpoint.options),
        *("--input-data", str(inputs)),
        f"--bls-composing-models={','.join(graphs)}",
        f"--concurrency-range={concurrency}",
        f"--request-count={requests + -requests % concurrency}",  # a multiple, so that all run at full concurrency
        f"--warmup-request-count={max(2, concurrency)}",
    ]


def _measure(command: list[str], folder: Path) -> dict[str, Any]:
    """Run perf_analyzer, and return what it measured. Raises SystemExit if it fails.

    It asks the server for statistics while its first requests are under way. If few short requests have ended before,
    as on a busy machine, it finds no difference and gives up. Then it is run again.
    """
    folder.mkdir()
    export = folder / "profile.json"
    environment = {"LD_LIBRARY_PATH": str(_link_libraries(folder))}
    for _ in range(TRIES):
        finished = subprocess.run(
            [*command, f"--profile-export-file={export}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(finished.stdout, flush=True)
        if _TOO_LATE not in finished.stdout:
            break
    if finished.returncode:
        raise SystemExit(f"perf_analyzer ended with exit code {finished.returncode}")
    try:
        return figures(read_requests(export))
    except ExportError as error:
        raise SystemExit(f"error: {error}") from None


def _link_libraries(folder: Path) -> Path:
    """Link two libraries of the server's wheel in `folder` under the names that perf_analyzer needs."""
    for wanted, pattern in _LIBRARIES.items():
        (folder / wanted).symlink_to(next(installed_wheel().libraries.glob(pattern)))
    return folder


if __name__ == "__main__":
    sys.exit(main())
