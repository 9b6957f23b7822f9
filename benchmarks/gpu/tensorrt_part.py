"""One expert block as a TensorRT plan, built and run as in production, compared with the same block in torch."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import Row, Skipped, attempt, median_seconds
from benchmarks.gpu.torch_parts import expert_inputs, expert_module, export_form
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.tensorrt.tensorrt_module import MODULES, TensorRtMissing, tensorrt_module
from wan_t2v.engines.tensorrt.tensorrt_plan import PlanError, TensorRtEngine
from wan_t2v.shapes import VideoShape

EXPERT = "high_noise_expert"
BLOCKS = 1
# TensorRT-RTX does not list Hopper as supported. If a build for the current GPU fails, the default target is tried.
TARGETS = (("current",), ())
Load = Callable[[Path, str, Any], Engine]


@dataclass(frozen=True)
class Exported:
    """The block in torch on the device, the ONNX file of the same weights, and the seconds of the export."""

    graph: Any
    onnx: Path
    seconds: float


def load_plan(path: Path, device: str, module: Any) -> Engine:
    """Load a plan with the engine that serves plans without Triton's TensorRT backend."""
    return TensorRtEngine(path, device=device, module=module)


def tensorrt(scale: Scale, *, load: Load = load_plan) -> Iterator[Row]:
    """Yield a row per TensorRT, size and target: a pass of one block in BF16. The largest size comes first."""
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as folder:
        exported: list[Exported] = []
        for name in MODULES:
            for size in sorted(scale.sizes, key=scale.tokens, reverse=True):
                for target in TARGETS if _on_gpu(scale) else TARGETS[-1:]:

                    def measure(name: str = name, size: VideoShape = size, target: tuple[str, ...] = target) -> Row:
                        trt = _module(name)
                        if not exported:
                            exported.append(_export(scale, Path(folder)))
                        return _measure(scale, size, trt, exported[0], target=target, load=load)

                    about = {"tensorrt": name, "size": str(size), "precision": "bf16", "target": list(target)}
                    rows = list(attempt({**about, "blocks": BLOCKS}, measure))
                    yield from rows
                    if "error" not in rows[0]:
                        break  # the next target is only for a failed build


def _on_gpu(scale: Scale) -> bool:
    return torch.device(scale.device).type == "cuda"


def _module(name: str) -> Any:
    try:
        return tensorrt_module(name)
    except TensorRtMissing as error:
        raise Skipped(str(error)) from error


def _measure(
    scale: Scale, size: VideoShape, trt: Any, exported: Exported, *, target: tuple[str, ...], load: Load
) -> Row:
    inputs = expert_inputs(scale, size)
    with torch.inference_mode():
        torch_s = median_seconds(lambda: exported.graph(*inputs.values()), scale.device, repeats=scale.repeats)
        reference = exported.graph(*inputs.values()).float()
    started = time.monotonic()
    plan = _plan(trt, scale, size, exported.onnx, target)
    about: Row = {
        "version": trt.__version__,
        "tokens": scale.tokens(size),
        "torch_seconds": torch_s,
        "export_seconds": exported.seconds,
        "build_seconds": time.monotonic() - started,
        "plan_mb": plan.stat().st_size / 1e6,
    }
    started = time.monotonic()
    try:
        engine = load(plan, scale.device, trt)
    except PlanError as error:
        if not _on_gpu(scale):
            raise Skipped(f"built in {about['build_seconds']:.0f} s, and a CPU cannot run a plan") from error
        raise
    finally:
        plan.unlink()
    about["load_seconds"] = time.monotonic() - started
    velocity = engine(inputs)["velocity"].float()
    difference = float((velocity - reference).norm() / reference.norm())
    seconds = median_seconds(lambda: engine(inputs), scale.device, repeats=scale.repeats)
    return {**about, "seconds": seconds, "relative_difference": difference}


def _export(scale: Scale, folder: Path) -> Exported:
    """Export on the CPU, as `make export` does. Raises Skipped if a package is missing."""
    started = time.monotonic()
    try:
        from export.to_onnx.exporter import onnx_from_module
    except ImportError as error:
        raise Skipped(f"{error}: pip install diffusers transformers onnx onnxscript") from error
    module = expert_module(scale, BLOCKS, "cpu")
    graph = export_form(copy.deepcopy(module), scale)  # the export form modifies its module
    onnx = onnx_from_module(module, EXPERT, scale.facts(), folder / "block.onnx")
    return Exported(graph, onnx, time.monotonic() - started)


def _plan(trt: Any, scale: Scale, size: VideoShape, graph: Path, target: tuple[str, ...]) -> Path:
    from export.graphs.axes import axes_of
    from export.to_plan.builder import Attention, BuildSettings, PlanShapes, plan_from_onnx

    shapes = PlanShapes((axes_of(EXPERT, size, scale.facts()),))
    path = graph.with_suffix(".plan")
    plan_from_onnx(trt, graph, path, shapes, BuildSettings(compute_capabilities=target), attention=Attention())
    return path
