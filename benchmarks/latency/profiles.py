"""A generation in each step profile and in four steps, against diffusers' exact one, alternating in one run, all warm.

    make bench        or        python -m benchmarks.latency.profiles --rounds 5

The trained wan-mini at the size of the other benchmark of a generation (128x128, 17 frames): on random weights a cache
skips without meaning. diffusers gets Wan's timesteps, inference mode and the better of one and two threads. Before
anything is timed, its video and that of `exact` are compared. One JSON line last: seconds (medians), `ratio` to
diffusers (median of the rounds' ratios) and the passes that were computed, for each. Four steps of experts that were
not distilled are no video that anybody wants; their time is that of distilled ones.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from wan_t2v_client import Connection, Generation, TextToVideo

from benchmarks.baselines.diffusers_pipeline import Diffusers
from benchmarks.harness.installed_copy import install_copy
from benchmarks.harness.machine import provenance
from benchmarks.latency.endpoints import rotate
from benchmarks.latency.generation import PROMPT, SEED, take_better_thread_count, time_call
from embedded.options import ServerOptions
from embedded.server import running_server
from wan_t2v.facts import ServingDefaults

CHECKPOINT = Path("training/wan-mini")
SIZE: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 17}
EXACT, FOUR_STEPS = "exact", "four steps"
DISTILLED = {"solver": "euler", "num_inference_steps": 4, "flow_shift": 5.0, "guidance_scale": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.profiles", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    about = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-bench-") as folder:
        copy = install_copy(options.checkpoint, options.repository, Path(folder))
        defaults = ServingDefaults.read(copy.exported)
        diffusers = Diffusers(copy.checkpoint, copy.exported, defaults=replace(defaults, **SIZE))
        server_options = ServerOptions(repository=copy.repository, log=Path(folder) / "log")
        with running_server(server_options) as server, TextToVideo(Connection(server.grpc_url)) as client:
            ways: dict[str, dict[str, Any]] = {
                EXACT: {},
                **{name: {"step_profile": name} for name in defaults.step_profiles},
                FOUR_STEPS: DISTILLED,
            }
            figures = _compare(client, diffusers, ways, rounds=options.rounds)
    print(json.dumps({**figures, "rounds": options.rounds, **about}))
    return 0


def _compare(
    client: TextToVideo, diffusers: Diffusers, ways: Mapping[str, Mapping[str, Any]], *, rounds: int
) -> dict[str, Any]:
    def generate(name: str, **fields: Any) -> Generation:
        return client.generate_unary(PROMPT, seed=SEED, **SIZE, **ways[name], **fields)

    frames = generate(EXACT, output_type="frames").frames
    if frames is None or int(np.abs(frames.astype(int) - diffusers.frames(PROMPT, seed=SEED)).max()) > 1:
        raise SystemExit("Triton and diffusers made different videos; see tests/server/requests/test_it_is_wan.py")
    threads = take_better_thread_count(lambda: diffusers.generate(PROMPT, seed=SEED))
    passes = {name: sum(generate(name).metadata["passes"]) for name in ways}  # the warm-up too
    seconds: dict[str, list[float]] = {name: [] for name in ("diffusers", *ways)}
    for number in range(rounds):
        seconds["diffusers"].append(time_call(lambda: diffusers.generate(PROMPT, seed=SEED)))
        for name in rotate(list(ways), number):
            seconds[name].append(time_call(functools.partial(generate, name)))
        shown = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
        print(f"round {number + 1}: {shown}", file=sys.stderr)
    return {"diffusers_threads": threads, **profile_figures(seconds, passes)}


def profile_figures(seconds: Mapping[str, Sequence[float]], passes: Mapping[str, int]) -> dict[str, Any]:
    """Medians, and each way's median ratio to diffusers over the rounds."""
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
