"""One expert as a TensorRT plan, built and run as production does it, with each TensorRT that is installed."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_scale import Scale
from benchmarks.gpu_timing import Row, Skipped, attempted, median_seconds
from benchmarks.gpu_torch import expert_inputs, expert_module, extrapolated
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.tensorrt_module import MODULES, TensorRtMissing, tensorrt_module
from wan_t2v.engines.tensorrt_plan import PlanError, TensorRtEngine
from wan_t2v.shapes import VideoShape

EXPERT = "high_noise_expert"
Load = Callable[[Path, str, Any], Engine]


def load_plan(path: Path, device: str, module: Any) -> Engine:
    """The engine that serves plans without Triton's TensorRT backend."""
    return TensorRtEngine(path, device=device, module=module)


def tensorrt(scale: Scale, *, load: Load = load_plan) -> Iterator[Row]:
    """A forward pass of an expert in BF16: a row for each TensorRT and size, with what its builds took."""
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as folder:
        graphs: dict[int, Path] = {}
        for name in MODULES:
            for size in scale.sizes:

                def measure(name: str = name, size: VideoShape = size) -> Row:
                    return _measured(scale, size, name, Path(folder), graphs, load)

                yield from attempted({"tensorrt": name, "size": str(size), "precision": "bf16"}, measure)


def _measured(scale: Scale, size: VideoShape, name: str, folder: Path, graphs: dict[int, Path], load: Load) -> Row:
    try:
        trt = tensorrt_module(name)
    except TensorRtMissing as error:
        raise Skipped(str(error)) from error
    build_s: list[float] = []

    def pass_seconds(blocks: int) -> float:
        if blocks not in graphs:
            graphs[blocks] = _graph(scale, blocks, folder)
        started = time.monotonic()
        plan = _plan(trt, scale, size, graphs[blocks])
        build_s.append(round(time.monotonic() - started, 1))
        try:
            engine = load(plan, scale.device, trt)
            inputs = expert_inputs(scale, size)
            return median_seconds(lambda: engine(inputs), scale.device, repeats=scale.repeats)
        except PlanError as error:
            if torch.device(scale.device).type == "cpu":
                raise Skipped(f"built in {build_s} s, and a CPU cannot run a plan") from error
            raise
        finally:
            plan.unlink()

    row = extrapolated(scale, size, scale.plan_blocks, pass_seconds)
    return {"version": trt.__version__, "build_seconds": build_s, **row}


def _graph(scale: Scale, blocks: int, folder: Path) -> Path:
    """Export on the CPU, as `make export` does. Raises Skipped if a package is missing."""
    try:
        from export.to_onnx import onnx_from_module
    except ImportError as error:
        raise Skipped(f"{error}: pip install diffusers transformers onnx onnxscript") from error
    return onnx_from_module(expert_module(scale, blocks, "cpu"), EXPERT, scale.facts(), folder / f"{blocks}.onnx")


def _plan(trt: Any, scale: Scale, size: VideoShape, graph: Path) -> Path:
    from export.plan_table import axes_of
    from export.to_plan import Attention, BuildSettings, PlanShapes, plan_from_onnx

    on_gpu = torch.device(scale.device).type == "cuda"
    shapes = PlanShapes((axes_of(EXPERT, size, scale.facts()),))
    settings = BuildSettings(compute_capabilities=("current",) if on_gpu else ())
    path = graph.with_suffix(".plan")
    plan_from_onnx(trt, graph, path, shapes, settings, attention=Attention())
    return path
