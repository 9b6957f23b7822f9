"""Compare generations in step profiles, four steps, INT8 and BF16 with diffusers' exact one: warm, alternating.

    make bench        or        python -m benchmarks.latency.profiles --rounds 5

The checkpoint is the trained wan-mini, since what a step cache skips on random weights is meaningless. The size is that
of `generation.py` (128x128, 17 frames). diffusers gets Wan's timesteps, inference mode and the better of one and two
threads. Its video is compared with that of `exact` before the timing. The four steps run on experts that were not
distilled: their video is poor, but their time is that of distilled experts. With `--also FOLDER`, another export of the
checkpoint (`make export PRECISION=int8`), a second server generates in that precision, exact and in the profile
`balanced`. On a CPU that has BF16, another server runs all graphs in OpenVINO in BF16, and others only the VAE graphs.
One server works at a time. The last line printed is JSON: median seconds, `ratio` to diffusers (median of the rounds'
ratios) and the number of computed passes, for each.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from wan_t2v_client import Connection, Generation, TextToVideo

from benchmarks.baselines.diffusers_pipeline import Diffusers
from benchmarks.harness.bf16 import bf16_is_missing
from benchmarks.harness.installed_copy import Installed, install_copy
from benchmarks.harness.machine import provenance
from benchmarks.harness.repository_copy import copy_repository, use_openvino
from benchmarks.latency.endpoints import rotate
from benchmarks.latency.generation import PROMPT, SEED, take_better_thread_count, time_call
from embedded.options import ServerOptions
from embedded.server import running_server
from export.to_onnx.install import install_export
from wan_t2v.contract import EXPERTS, GRAPHS
from wan_t2v.facts import ServingDefaults
from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, read_manifest

CHECKPOINT = Path("training/wan-mini")
SIZE: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 17}
EXACT, BALANCED, FOUR_STEPS, BF16 = "exact", "balanced", "four steps", "bf16"
VAE_GRAPHS = ("vae_decoder_first", "vae_decoder_next")
DISTILLED = {"solver": "euler", "num_inference_steps": 4, "flow_shift": 5.0, "guidance_scale": 1.0}


@dataclass(frozen=True)
class Way:
    """A way to generate: the client of a server, and the request's fields."""

    client: TextToVideo
    fields: Mapping[str, Any]

    def generate(self, **fields: Any) -> Generation:
        """Generate the benchmark's video."""
        return self.client.generate_unary(PROMPT, seed=SEED, **SIZE, **self.fields, **fields)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.profiles", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--also", type=Path, help="folder of the same checkpoint's graphs in another precision")
    options = parser.parse_args(arguments)
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
        copy = install_copy(options.checkpoint, options.repository, Path(folder))
        defaults = ServingDefaults.read(copy.exported)
        diffusers = Diffusers(copy.checkpoint, copy.exported, defaults=replace(defaults, **SIZE))
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(_serve(copy.repository))
            ways = {
                EXACT: Way(client, {}),
                **{name: Way(client, {"step_profile": name}) for name in defaults.step_profiles},
                FOUR_STEPS: Way(client, DISTILLED),
            }
            for other in _other_servers(options.repository, options.also, copy, Path(folder)):
                ways |= other.ways(stack.enter_context(_serve(other.repository)))
            figures = _compare(diffusers, ways, rounds=options.rounds)
    print(json.dumps({**figures, "rounds": options.rounds, **about}))
    return 0


@contextlib.contextmanager
def _serve(repository: Path) -> Iterator[TextToVideo]:
    options = ServerOptions(repository=repository, log=repository.with_suffix(".log"))
    with running_server(options) as server, TextToVideo(Connection(server.grpc_url)) as client:
        yield client


@dataclass(frozen=True)
class OtherServer:
    """A server whose graphs run otherwise, and what to call its videos.

    Attributes:
        name: what differs from the first server.
        requests: fields of its requests, by what they are called; an empty name for a request without any.
    """

    name: str
    repository: Path
    requests: Mapping[str, Mapping[str, Any]]

    def ways(self, client: TextToVideo) -> dict[str, Way]:
        """Its ways of making the video, by the name that they have in the result."""
        return {f"{self.name}, {kind}" if kind else self.name: Way(client, row) for kind, row in self.requests.items()}


def _other_servers(repository: Path, also: Path | None, copy: Installed, folder: Path) -> Iterator[OtherServer]:
    plain: dict[str, Mapping[str, Any]] = {"": {}}
    balanced = {BALANCED: {"step_profile": BALANCED}}
    four_steps = {FOUR_STEPS: DISTILLED}
    precision = read_manifest(GraphManifest, also / EXPERTS[0] / GRAPH_MANIFEST).precision if also else ""
    if also:
        other = install_export(also, copy_repository(repository, folder / "also"))
        yield OtherServer(precision, other, plain | balanced)
    if reason := bf16_is_missing():
        print(f"OpenVINO in BF16 is not measured: {reason}", file=sys.stderr)
        return
    bf16 = copy_repository(copy.repository, folder / "bf16")
    use_openvino(bf16, GRAPHS, precision="bf16")
    yield OtherServer(BF16, bf16, plain | balanced | four_steps)
    if also:
        bf16_vae = install_export(also, copy_repository(repository, folder / "bf16-vae"))
        use_openvino(bf16_vae, VAE_GRAPHS, precision="bf16")
        yield OtherServer(f"{precision}, {BF16} VAE", bf16_vae, balanced)
    fp32_vae = copy_repository(copy.repository, folder / "fp32-bf16-vae")
    use_openvino(fp32_vae, VAE_GRAPHS, precision="bf16")
    yield OtherServer(f"{BF16} VAE", fp32_vae, four_steps)


def _compare(diffusers: Diffusers, ways: Mapping[str, Way], *, rounds: int) -> dict[str, Any]:
    frames = ways[EXACT].generate(output_type="frames").frames
    if frames is None or int(np.abs(frames.astype(int) - diffusers.frames(PROMPT, seed=SEED)).max()) > 1:
        raise SystemExit("Triton and diffusers made different videos; see tests/server/requests/test_it_is_wan.py")
    threads = take_better_thread_count(lambda: diffusers.generate(PROMPT, seed=SEED))
    passes = {name: sum(way.generate().metadata["passes"]) for name, way in ways.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in ("diffusers", *ways)}
    for number in range(rounds):
        seconds["diffusers"].append(time_call(lambda: diffusers.generate(PROMPT, seed=SEED)))
        for name in rotate(list(ways), number):
            seconds[name].append(time_call(ways[name].generate))
        shown = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
        print(f"round {number + 1}: {shown}", file=sys.stderr)
    return {"diffusers_threads": threads, **profile_figures(seconds, passes)}


def profile_figures(seconds: Mapping[str, Sequence[float]], passes: Mapping[str, int]) -> dict[str, Any]:
    """Compute median seconds, and the median over the rounds of each way's ratio to diffusers."""
    theirs = seconds["diffusers"]
    ways = {
        name: {
            "seconds": round(statistics.median(seconds[name]), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(seconds[name], theirs, strict=True)), 3),
            "passes": count,
        }
        for name, count in passes.items()
    }
    return {"diffusers_s": round(statistics.median(theirs), 3), "profiles": ways}


if __name__ == "__main__":
    sys.exit(main())
