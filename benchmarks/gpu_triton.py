"""The whole loop through Triton: a generation on the installed repository, and what the way between models costs."""

import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_scale import Scale
from benchmarks.gpu_timing import Row, Skipped, attempted
from wan_t2v.manifests import GRAPH_MANIFEST, GraphManifest, read_manifest

REPOSITORY = Path("model_repository")
PROMPT, SEED = "a red ball rolls left", 7


def triton(scale: Scale, *, repository: Path = REPOSITORY) -> Iterator[Row]:
    """Seconds of a generation, the share of it in which no graph runs, and the gap between two steps.

    On a GPU the graphs run in torch, if their programs are installed; else, and on a CPU, in ONNX Runtime.
    """
    on_gpu = torch.device(scale.device).type == "cuda"
    engine = "torch" if on_gpu and (repository / "high_noise_expert/1/program.json").exists() else "onnxruntime"

    def measure() -> Row:
        if not (repository / "prepare/1/model_facts.json").exists():
            raise Skipped(f"nothing is installed in {repository}: make export")
        try:
            from benchmarks.repository_copy import copied_repository, log_intervals
            from embedded.options import ServerOptions
            from embedded.server import running_server
            from embedded.wheel import installed_wheel

            installed_wheel()
        except Exception as error:
            raise Skipped(f"{error}: make setup") from error
        with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as name:
            copy = copied_repository(repository, Path(name))
            choose_engine(copy, engine, on_gpu=on_gpu)
            log = log_intervals(copy, Path(name) / "intervals")
            with running_server(ServerOptions(repository=copy, log=Path(name) / "log")) as server:
                return _measured(server.grpc_url, scale, log)

    about = {"steps": scale.steps, "engine": engine, "checkpoint": installed_checkpoint(repository)}
    yield from attempted(about, measure)


def choose_engine(repository: Path, engine: str, *, on_gpu: bool) -> None:
    """Have the five graphs of this copy run in `engine`, on the first GPU if there is one and the engine uses it."""
    from benchmarks.repository_copy import GRAPHS

    for graph in GRAPHS:
        config = repository / graph / "configs/cpu.pbtxt"
        text = config.read_text(encoding="utf-8")
        if on_gpu and engine != "onnxruntime":
            text = re.sub(r"kind: KIND_CPU, count: \d+", "kind: KIND_GPU, count: 1, gpus: [ 0 ]", text)
        config.write_text(f'{text}parameters {{ key: "engine", value {{ string_value: "{engine}" }} }}\n', "utf-8")


def installed_checkpoint(repository: Path) -> str:
    """The start of the hash of the checkpoint that is installed, or nothing."""
    try:
        manifest = read_manifest(GraphManifest, repository / "high_noise_expert/1" / GRAPH_MANIFEST)
    except FileNotFoundError:
        return ""
    return manifest.checkpoint_sha256[:16]


def _measured(url: str, scale: Scale, log: Path) -> Row:
    from wan_t2v_client import Connection, TextToVideo

    from benchmarks.intervals import covered_ns, gaps_ns, logged_intervals

    spans = []
    with TextToVideo(Connection(url)) as client:
        client.generate(PROMPT, seed=SEED, num_inference_steps=scale.steps)
        for _ in range(scale.repeats):
            started = time.monotonic_ns()
            client.generate(PROMPT, seed=SEED, num_inference_steps=scale.steps)
            spans.append((started, time.monotonic_ns()))
    intervals = logged_intervals(log)
    gaps = [gap for span in spans for gap in gaps_ns(intervals, span)]
    return {
        "seconds": statistics.median((end - start) / 1e9 for start, end in spans),
        "outside_graphs": statistics.median(1 - covered_ns(intervals, span) / (span[1] - span[0]) for span in spans),
        "step_gap_ms": statistics.median(gaps) / 1e6,
    }
