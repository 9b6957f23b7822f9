"""Load the engine that a config names for an installed graph."""

from dataclasses import dataclass
from pathlib import Path

from wan_t2v.engines.engine import BufferedEngine
from wan_t2v.manifests import BUILD_PLANS


@dataclass(frozen=True)
class GraphFile:
    """Files that an engine reads in a graph's version folder: the graph, and the manifest with its SHA-256."""

    name: str
    manifest: str
    hash_key: str
    command: str  # makes both


_ONNX = GraphFile("model.onnx", "manifest.json", "onnx_sha256", "make export")
GRAPH_FILES = {
    "onnxruntime": _ONNX,
    "torch": GraphFile(
        "model.pt2", "program.json", "program_sha256", "python -m export.to_torch_program --checkpoint FOLDER"
    ),
    "tensorrt": GraphFile("model.plan", "plan.json", "plan_sha256", BUILD_PLANS),
    "openvino": _ONNX,
}
ENGINES = tuple(GRAPH_FILES)
DEFAULT_ENGINE = ENGINES[0]
INFERENCE_PRECISIONS = ("f32", "bf16")
"""What the engine `openvino` computes in, by OpenVINO's own names; the first is the default."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine that runs a graph.

    Attributes:
        engine: one of ENGINES.
        device: `cpu` or `cuda:<n>`; ONNX Runtime and OpenVINO run on the CPU only, TensorRT on a GPU only.
        threads: CPU threads; 0 takes the engine's default.
        torch_compile: backend of `torch.compile` (`inductor`) for the engine `torch`; empty for none.
        inference_precision: one of INFERENCE_PRECISIONS, for the engine `openvino`.
        tf32: whether the engine `torch` may compute FP32 products in TF32 on a GPU (a plan has it built in).
        tensorrt_module: `tensorrt` or `tensorrt_rtx`, as the plan was built; None takes the first one installed.
    """

    engine: str = DEFAULT_ENGINE
    device: str = "cpu"
    threads: int = 0
    torch_compile: str = ""
    inference_precision: str = "f32"
    tf32: bool = False
    tensorrt_module: str | None = None


def engine_from_file(path: Path, settings: EngineSettings) -> BufferedEngine:
    """Load the engine. It imports only the chosen engine's package, so the others need not be installed."""
    if settings.engine == "torch":
        from wan_t2v.engines.torch_program import TorchEngine

        return TorchEngine(
            path,
            device=settings.device,
            threads=settings.threads,
            compile_backend=settings.torch_compile,
            tf32=settings.tf32,
        )
    if settings.engine == "tensorrt":
        from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module
        from wan_t2v.engines.tensorrt.tensorrt_plan import TensorRtEngine

        return TensorRtEngine(path, device=settings.device, module=tensorrt_module(settings.tensorrt_module))
    if settings.engine == "openvino":
        try:
            from wan_t2v.engines.openvino import OpenVinoEngine
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise
            raise ModuleNotFoundError(
                "the engine openvino needs its package: pip install 'wan-t2v[openvino]'"
            ) from None

        return OpenVinoEngine(path, threads=settings.threads, precision=settings.inference_precision)
    from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, threads=settings.threads)
