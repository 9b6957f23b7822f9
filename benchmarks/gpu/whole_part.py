"""Whole videos of A14B's size through the server: 40 blocks per expert, random weights, every graph in torch.

    python -m benchmarks.gpu.whole_part --out FOLDER        trace the programs ahead, on a machine without a GPU

Placement decides the configs, as for a deployment without plans: experts and VAE in torch, the text encoder on the CPU.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.processes import gpu_processes
from benchmarks.gpu.scale import A14B, Scale, full_scale
from benchmarks.gpu.server_part import log_messages, on_gpu
from benchmarks.gpu.timing import Row, Skipped, attempt
from benchmarks.harness.intervals import covered_ns, gaps_ns, read_intervals
from wan_t2v.contract import EXPERTS, STREAM
from wan_t2v.shapes import VideoShape

PROMPT, SEED = "a red ball rolls left", 7
CONFIG = "whole"  # name of the config set
STEPS = 4
CALL_LIMIT_S = 200.0
NEEDED_BYTES = 45e9  # one expert, which is the other one too, the text encoder, the VAE
LOGGED = (*EXPERTS, "text_encoder", STREAM)  # the last one runs the VAE
_NOT_COPIED = ("__pycache__", "*.onnx", "*.pt2", "*.plan", "*.json", "*.safetensors")


def whole(scale: Scale, *, repository: Path, folder: Path, keep: Path | None = None) -> Iterator[Row]:
    """Yield rows: what the server took to load, videos at each size with and without guidance, and memory.

    `repository` has the configs. `folder` gets 45 GB of random weights; programs in it that were traced before are
    used. `keep` is a folder for videos and the log.
    """
    about = {"what": "prepared"}
    rows = list(attempt(about, partial(_prepare, scale, repository, folder)))
    yield from rows
    if "seconds" not in rows[0]:
        return
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as name:
        log, measured = (keep or Path(name)) / "whole.log", []

        def run() -> Row:
            started = time.monotonic()
            with _running_server(scale, folder / "model_repository", Path(name), log=log) as running:
                ready_s = time.monotonic() - started
                for row in _measure(scale, running.grpc_url, Path(name) / "intervals", keep=keep):
                    measured.append(row)
            return {"ready_s": ready_s}

        yield from attempt({"what": "server"}, run)
        yield from measured
        yield {"what": "log", "told": log_messages(log)}


def _measure(scale: Scale, url: str, intervals: Path, *, keep: Path | None) -> Iterator[Row]:
    for size in scale.sizes:
        for guided in (False, True) if size == scale.sizes[0] else (False,):
            about = {"what": "video", "size": str(size), "steps": STEPS, "guided": guided}
            yield from attempt(about, partial(_video, url, size, intervals=intervals, guided=guided, keep=keep))
        yield from attempt({"what": "memory", "size": str(size)}, gpu_processes)


def _video(url: str, size: VideoShape, *, intervals: Path, guided: bool, keep: Path | None) -> Row:
    """Generate one video after one of two steps, which warms up the libraries and the allocators of this size."""
    from wan_t2v_client import Connection, TextToVideo

    fields: dict[str, Any] = {"height": size.height, "width": size.width, "num_frames": size.frames, "seed": SEED}
    fields |= {} if guided else {"guidance_scale": 1.0, "guidance_scale_2": 1.0}
    with TextToVideo(Connection(url)) as client:
        generate = partial(client.generate, PROMPT, deadline_s=CALL_LIMIT_S, **fields)
        if not guided:
            generate(num_inference_steps=2)
        started = time.monotonic_ns()
        answer = generate(num_inference_steps=STEPS)
        span = (started, time.monotonic_ns())
    if keep:
        (keep / f"whole-{size}{'-guided' if guided else ''}.mp4").write_bytes(answer.video or b"")
    passes = {name: read_intervals_of(intervals, name, span) for name in (*EXPERTS, "text_encoder", "vae")}
    spent = [end - start for name in EXPERTS for start, end in passes[name]]
    everything = [interval for found in passes.values() for interval in found]
    return {
        "passes": len(spent),
        "seconds": (span[1] - span[0]) / 1e9,
        "pass_seconds": statistics.median(spent) / 1e9,
        "text_encoder_seconds": sum(end - start for start, end in passes["text_encoder"]) / 1e9,
        "vae_seconds": sum(end - start for start, end in passes["vae"]) / 1e9,
        "outside_graphs": 1 - covered_ns(everything, span) / (span[1] - span[0]),
        "longest_gap_ms": max(gaps_ns(everything, span)) / 1e6,
        "video_bytes": len(answer.video or b""),
    }


def read_intervals_of(folder: Path, name: str, span: tuple[int, int]) -> list[tuple[int, int]]:
    """Read the intervals in `span` of the graphs whose name begins with `name`."""
    found = read_intervals(folder, graph=name)
    return [(start, end) for start, end in found if start < span[1] and end > span[0]]


def _running_server(scale: Scale, models: Path, folder: Path, *, log: Path) -> Any:
    """Return the context in which a server runs the config set. Raises Skipped if the server cannot be imported."""
    try:
        from embedded.options import ServerOptions
        from embedded.server import running_server
        from embedded.wheel import installed_wheel

        installed_wheel()
    except Exception as error:
        raise Skipped(f"{error}: make setup") from error
    pool, loaded = _write_configs(scale, models, folder / "intervals")
    options = ServerOptions(
        repository=models,
        config_name=CONFIG,
        models=loaded,
        log=log,
        cuda_pool_bytes=pool if on_gpu(scale) else None,
        start_limit_s=max(240.0, scale.start_limit_s),
    )
    return running_server(options)


def _prepare(scale: Scale, repository: Path, folder: Path) -> Row:
    started = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder.parent).free, max(0.0, NEEDED_BYTES - _allocated_bytes(folder))
    if on_gpu(scale) and free < needed:
        raise Skipped(f"{free / 1e9:.0f} GB are free beside {folder}, and {needed / 1e9:.0f} are needed")
    prepare(scale, repository, folder, whole=True)
    return {"seconds": time.monotonic() - started}


def _allocated_bytes(folder: Path) -> int:
    """Return what `folder` takes on disk, which this run frees or keeps: sparse files take less than their size."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def prepare(scale: Scale, repository: Path, folder: Path, *, whole: bool) -> Path:
    """Write random weights, graphs' manifests, torch programs and model files into `folder`, and return it.

    Programs and manifests that are there already are kept. Unless `whole`, weights have only what their hashes need.
    """
    try:
        from benchmarks.gpu.random_checkpoint import complete, write_random_checkpoint
        from export.checkpoint.folder import Checkpoint
        from export.graphs.precision import Precisions
        from export.to_onnx.export_checkpoint import export_checkpoint
        from export.to_onnx.graph_export import ExportSettings
        from export.to_onnx.install import install_without_graphs, set_default_size
        from export.to_torch_program import write_programs
    except ImportError as error:
        raise Skipped(f"{error}: pip install diffusers transformers onnx onnxscript") from error
    from wan_t2v.installed_files import FILES_MANIFEST
    from wan_t2v.preview import PREVIEW_FILE, PreviewMap

    precisions = Precisions("bf16", "bf16", "fp32")
    checkpoint = Checkpoint.open(write_random_checkpoint(folder / "checkpoint", scale))
    exported, models = folder / "export", folder / "model_repository"
    if not (exported / FILES_MANIFEST).exists():
        exported.mkdir(parents=True, exist_ok=True)
        channels = checkpoint.facts.grid.channels
        grey = PreviewMap([[0.1] * 3] * channels, [0.5] * 3)  # a dummy gets no map of its own
        (exported / PREVIEW_FILE).write_text(grey.to_json(), encoding="utf-8")
        settings = ExportSettings(precisions, external_weights=True, dummy=True)
        export_checkpoint(checkpoint, exported, settings)
    shutil.copytree(repository, models, ignore=shutil.ignore_patterns(*_NOT_COPIED), dirs_exist_ok=True)
    install_without_graphs(exported, models)
    set_default_size(models, scale.sizes[0])
    write_programs(checkpoint, models, precisions=precisions, external_weights=True)
    if whole:
        complete(checkpoint.folder)
    return folder


def _write_configs(scale: Scale, models: Path, intervals: Path) -> tuple[int, tuple[str, ...]]:
    """Write the config set of a placement on this GPU, and have every graph log when it ran.

    Returns the bytes of Triton's CUDA pool and the models to load.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

    from export.placement.configs import models_of_repository, unloaded_models, write_configs

    placement = _placement(scale, models.parent / "checkpoint")
    write_configs(placement, models, CONFIG)
    intervals.mkdir()
    loaded = [model for model in models_of_repository(models) if model not in unloaded_models(placement)]
    for model in loaded:
        path = models / model / "configs" / f"{CONFIG}.pbtxt"
        source = path if path.exists() else models / model / "config.pbtxt"
        config = text_format.Parse(source.read_text(encoding="utf-8"), ModelConfig())
        if model in LOGGED:
            config.parameters["interval_log"].string_value = str(intervals)
        if model == STREAM:
            config.parameters["tf32"].string_value = "1"
        for tensor in (*config.input, *config.output):
            tensor.dims[:] = [scale.dims.text_dim if length == A14B.text_dim else length for length in tensor.dims]
        if not on_gpu(scale):
            config.parameters["threads"].string_value = "0"
            for group in config.instance_group:
                group.kind = ModelInstanceGroup.KIND_CPU
                del group.gpus[:]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
    return placement.pool_bytes(0), tuple(loaded)


def _placement(scale: Scale, checkpoint: Path) -> Any:
    """Return the best placement of the streaming endpoint on this GPU without plans. Raises SettingsError."""
    from export.checkpoint.component_configs import read_architecture
    from export.placement.gpu_memory import GpuMemory, ServingProfile, SettingsError, VaeEngine
    from export.placement.gpus import Gpu
    from export.placement.pick_layout import best_fit, best_of_each_layout

    profile = ServingProfile(
        scale.sizes,
        endpoints=(STREAM,),
        text_encoder_device="cpu",
        vae_engine=VaeEngine.TORCH,
        experts_in_torch=True,
    )
    size = f"{torch.cuda.mem_get_info()[1] // 2**20} MiB" if on_gpu(scale) else "141"
    memory = GpuMemory(read_architecture(checkpoint), profile, {})
    placement = best_fit(best_of_each_layout(memory, [Gpu.parse(size)]))
    if placement is None:
        raise SettingsError(f"nothing fits on a GPU of {size}")
    return placement


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a folder for the part `whole` of another machine, without the weights' 45 GB. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.whole_part")
    parser.add_argument("--out", type=Path, required=True, help="folder to prepare")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="model repository")
    options = parser.parse_args(arguments)
    prepare(full_scale("cpu"), options.repository, options.out, whole=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
