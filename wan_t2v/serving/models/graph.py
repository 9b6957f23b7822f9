"""A graph as a Triton model in the Python backend, in place of the TensorRT backend."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wan_t2v.engines.engine import Array, BufferedEngine, Engine
from wan_t2v.engines.loader import (
    DEFAULT_ENGINE,
    ENGINES,
    GRAPH_FILES,
    INFERENCE_PRECISIONS,
    EngineSettings,
    engine_from_file,
)
from wan_t2v.engines.tensorrt.plan_compatibility import Running, check_plan
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module
from wan_t2v.engines.timed import TimedEngine
from wan_t2v.installed_files import InstalledFileError, missing, parse_installed, sha256_of_file
from wan_t2v.manifests import GRAPH_MANIFEST, PLAN_MANIFEST, PlanManifest, read_manifest
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.models.graph_limits import GraphLimits
from wan_t2v.serving.models.latent_frames import check_latent_frames
from wan_t2v.serving.python_backend.parameters import ModelParameters, instance_device, read_graph_manifest
from wan_t2v.serving.python_backend.responses import respond_to_all
from wan_t2v.serving.python_backend.tensors import numpy_from_triton, to_triton, torch_from_triton

INFERENCE_PRECISION = "inference_precision"
NUMPY_ENGINES = ("onnxruntime", "openvino")


class GraphModel:
    """Runs the graph of its version folder; requests that Triton passes in one call run as one batch."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        settings = engine_settings(parameters, instance_device(args))
        self._pb_utils = pb_utils
        # numpy has neither BF16 nor GPU arrays, so engines that support them get torch tensors.
        self._read = numpy_from_triton if settings.engine in NUMPY_ENGINES else torch_from_triton
        self._limits = GraphLimits.of_model(parameters)
        self._engine: Engine = load_installed_engine(parameters, parameters.version_folder, settings)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point. The Python backend does not batch: the model merges the requests itself."""
        calls = [Call.from_request(request, self._read) for request in requests]
        answers: dict[int, dict[str, Array]] = {}

        def answer(index: int) -> list[Any]:
            self._limits.check(calls[index].inputs)
            if index not in answers:
                together = [other for other, call in enumerate(calls) if call.merges_with(calls[index])]
                outputs = run_merged(self._engine, [calls[other] for other in together])
                answers.update(zip(together, outputs, strict=True))
            return [to_triton(self._pb_utils, name, array) for name, array in answers[index].items()]

        return respond_to_all(self._pb_utils, range(len(requests)), answer)


@dataclass(frozen=True)
class Call:
    """One request's inputs and requested outputs; the first axis of every array is the batch."""

    inputs: dict[str, Array]
    outputs: list[str]

    @classmethod
    def from_request(cls, request: Any, read: Any = numpy_from_triton) -> "Call":
        """Read a Triton request; its arrays are views of Triton's memory."""
        inputs = {tensor.name(): read(tensor) for tensor in request.inputs()}
        return cls(inputs, list(request.requested_output_names()))

    def merges_with(self, other: "Call") -> bool:
        """Whether one batch can hold both calls: the same requested outputs, the same shapes but for the batch."""
        shapes, others = ({name: tuple(a.shape[1:]) for name, a in call.inputs.items()} for call in (self, other))
        return self.outputs == other.outputs and shapes == others

    @property
    def batch(self) -> int:
        """Number of rows of this call."""
        return len(next(iter(self.inputs.values())))


def run_merged(engine: Engine, calls: Sequence[Call]) -> list[dict[str, Array]]:
    """Run calls that merge as one batch, and return each call's rows of the outputs."""
    if len(calls) == 1:
        return [engine(calls[0].inputs, calls[0].outputs)]
    inputs = {name: _concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs}
    outputs = engine(inputs, calls[0].outputs)
    ends = np.cumsum([call.batch for call in calls])
    return [
        {name: array[end - call.batch : end] for name, array in outputs.items()}
        for call, end in zip(calls, ends, strict=True)
    ]


def _concatenate(arrays: Sequence[Array]) -> Array:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch

    return torch.cat(list(arrays))


def engine_settings(parameters: ModelParameters, device: str) -> EngineSettings:
    """Read `engine` and what belongs to it from a config's parameters. Raises ParameterError."""
    engine = parameters.choice("engine", ENGINES, DEFAULT_ENGINE)
    if engine == "tensorrt" and device == "cpu":
        raise ParameterError(
            f"{parameters.model}: parameter engine is 'tensorrt', which needs a GPU, but its instance_group has kind "
            "KIND_CPU. Set kind: KIND_GPU, or engine to onnxruntime or torch."
        )
    if engine == "openvino" and device != "cpu":
        raise ParameterError(
            f"{parameters.model}: parameter engine is 'openvino', which is for the CPU here, but its instance_group "
            "has kind KIND_GPU. Set kind: KIND_CPU, or engine to torch or tensorrt."
        )
    threads = parameters.integer("threads", least=0) if device == "cpu" else 0
    tf32 = parameters.choice("tf32", ("0", "1"), "0")
    compiled = parameters.values.get("torch_compile", "")
    inference_precision = _inference_precision(parameters, engine)
    return EngineSettings(
        engine,
        device,
        threads=threads,
        torch_compile=compiled,
        inference_precision=inference_precision,
        tf32=tf32 == "1",
    )


def _inference_precision(parameters: ModelParameters, engine: str) -> str:
    if INFERENCE_PRECISION in parameters.values and engine != "openvino":
        raise ParameterError(
            f"{parameters.model}: parameter {INFERENCE_PRECISION} is for openvino alone, but engine is {engine!r}. "
            "Set it to openvino, or leave it out: the other engines compute in the precision that was exported."
        )
    return parameters.choice(INFERENCE_PRECISION, INFERENCE_PRECISIONS, INFERENCE_PRECISIONS[0])


def load_installed_engine(parameters: ModelParameters, folder: Path, settings: EngineSettings) -> BufferedEngine:
    """Load the graph in a version folder; with the parameter `interval_log` the engine logs its run times.

    Raises PlanMismatch for a plan of another TensorRT or GPU, and InstalledFileError for a torch program of another
    checkpoint than the graph beside it, or a file that decodes fewer latent frames per call than wanted, with the
    command that makes the right one.
    """
    path = installed_graph(folder, settings.engine)
    check_latent_frames(parameters, folder, settings.engine)
    if settings.engine == "torch":
        _check_weights_of_program(folder)
    if settings.engine == "tensorrt":
        settings = replace(settings, tensorrt_module=matching_module(folder))
    engine = engine_from_file(path, settings)
    log = parameters.optional_path("interval_log")
    return engine if log is None else TimedEngine(engine, log / f"{folder.parent.name}-{os.getpid()}.txt")


def _check_weights_of_program(folder: Path) -> None:
    """Refuse a torch program of other weights than the graph in its version folder. Raises InstalledFileError.

    Models compare their files with the graph's manifest, and the program came by another command.
    """
    file = GRAPH_FILES["torch"]
    program, graph = folder / file.manifest, folder / GRAPH_MANIFEST
    if not graph.exists():
        return
    made_from = parse_installed(program, lambda text: dict(json.loads(text)), command=file.command)
    weights = [manifest.get("checkpoint_sha256") for manifest in (made_from, read_graph_manifest(folder))]
    if None not in weights and weights[0] != weights[1]:
        raise InstalledFileError(
            f"{program} and {graph} are of different checkpoints, or an installation broke off. Run `{file.command}` "
            "again with the options that made the programs, for the checkpoint that is to be served. With `--exported` "
            "it installs the other files of that checkpoint as well."
        )


def matching_module(folder: Path) -> str:
    """Return the TensorRT module of the plan in a version folder, if the plan fits that module and this GPU.

    Raises TensorRtMissing, PlanMismatch, or ManifestError.
    """
    manifest = read_manifest(PlanManifest, folder / PLAN_MANIFEST)
    module = manifest.tensorrt.module
    graph = folder / GRAPH_FILES["onnxruntime"].manifest
    onnx_sha256 = read_graph_manifest(folder)["onnx_sha256"] if graph.exists() else None
    check_plan(manifest, Running(module, tensorrt_module(module).__version__, running_gpu(), onnx_sha256))
    return module


def installed_graph(folder: Path, engine: str = DEFAULT_ENGINE) -> Path:
    """Return the path of an engine's file in a version folder, and check its hash.

    Raises FileNotFoundError naming the command that makes it, ValueError if it differs from its manifest.
    """
    file = GRAPH_FILES[engine]
    manifest, path = folder / file.manifest, folder / file.name
    for needed in (manifest, path):
        if not needed.exists():
            raise _missing(needed, engine, broke_off=needed == manifest and path.exists())
    expected = parse_installed(manifest, lambda text: json.loads(text)[file.hash_key], command=file.command)
    if sha256_of_file(path) != expected:
        raise ValueError(f"{path} is not the file that its manifest describes. Run `{file.command}` again.")
    return path


def installed_precisions(folder: Path, engines: Iterable[str]) -> set[str]:
    """Return the precisions of the graph in a version folder, by the manifests of these engines that are there."""
    files = [file for engine in engines if (folder / (file := GRAPH_FILES[engine]).manifest).exists()]
    manifests = [
        parse_installed(folder / file.manifest, lambda text: dict(json.loads(text)), command=file.command)
        for file in files
    ]
    return {manifest["precision"] for manifest in manifests if "precision" in manifest}


def _missing(path: Path, engine: str, *, broke_off: bool) -> FileNotFoundError:
    if engine == DEFAULT_ENGINE:
        return missing(path)
    file = GRAPH_FILES[engine]
    if broke_off:
        return FileNotFoundError(
            f"{path} is missing and {file.name} is there: the command that makes both broke off, and graphs beside it "
            f"may be of another precision or checkpoint. Run `{file.command}` again with the options of that run."
        )
    return FileNotFoundError(f"{path} is missing. Run `{file.command}` first.")
