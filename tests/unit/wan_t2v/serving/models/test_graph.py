import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes import fake_tensorrt
from tests.fakes.manifests import plan_manifest
from tests.fakes.pb_utils import FakePbUtils, FakeRequest
from wan_t2v.engines.loader import ENGINES, GRAPH_FILES, EngineSettings
from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.installed_files import InstalledFileError, sha256_of_file
from wan_t2v.manifests import PlannedDeployment, RunningGpu, TensorRtVersion, to_json
from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.models import graph
from wan_t2v.serving.models.graph import (
    GraphModel,
    engine_settings,
    installed_graph,
    load_installed_engine,
    matching_module,
)
from wan_t2v.serving.models.graph_limits import GraphLimits
from wan_t2v.serving.python_backend.parameters import ModelParameters
from wan_t2v.serving.python_backend.tensors import numpy_from_triton, torch_from_triton


class RecordingEngine:
    """Doubles `x`; keeps the batches it was given. `poison` makes it fail on batches that hold that number."""

    def __init__(self, poison: float | None = None) -> None:
        self.batches: list[int] = []
        self.poison = poison

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.batches.append(len(inputs["x"]))
        if self.poison is not None and (inputs["x"] == self.poison).any():
            raise RuntimeError("no memory")
        return {"y": inputs["x"] * 2}


class Request(FakeRequest):
    def requested_output_names(self) -> list[str]:
        return ["y"]


def model(engine: RecordingEngine, read: Any = numpy_from_triton) -> GraphModel:
    made = GraphModel.__new__(GraphModel)
    made._pb_utils, made._engine, made._read = FakePbUtils(), engine, read
    made._limits = GraphLimits({"x": ("width",)}, {"width": 3})
    return made


def values(responses: list[Any]) -> list[Any]:
    return [None if r.has_error() else r.output_tensors()[0].as_numpy().tolist() for r in responses]


def test_requests_of_one_shape_run_as_one_batch_and_each_gets_its_rows() -> None:
    engine = RecordingEngine()
    requests = [Request(x=np.full((rows, 2), float(rows))) for rows in (1, 3, 1)]
    assert values(model(engine).execute(requests)) == [[[2, 2]], [[6, 6]] * 3, [[2, 2]]]
    assert engine.batches == [5]


def test_an_engine_of_torch_gets_batches_of_torch_tensors_in_their_own_precision() -> None:
    engine = RecordingEngine()
    requests = [Request(x=torch.full((rows, 2), float(rows), dtype=torch.bfloat16)) for rows in (1, 2)]
    responses = model(engine, torch_from_triton).execute(requests)
    assert [r.output_tensors()[0]._array.tolist() for r in responses] == [[[2, 2]], [[4, 4]] * 2]
    assert responses[0].output_tensors()[0]._array.dtype == torch.bfloat16
    assert engine.batches == [3]


def test_requests_of_other_shapes_run_apart() -> None:
    engine = RecordingEngine()
    requests = [Request(x=np.ones((1, width))) for width in (2, 3, 2)]
    assert values(model(engine).execute(requests)) == [[[2, 2]], [[2, 2, 2]], [[2, 2]]]
    assert sorted(engine.batches) == [1, 2]


def test_a_request_that_is_larger_than_what_is_served_never_reaches_the_engine() -> None:
    """Else anyone makes an expert take gigabytes, which it keeps."""
    engine = RecordingEngine()
    refused, done = model(engine).execute([Request(x=np.ones((1, 4))), Request(x=np.ones((1, 3)))])
    assert refused.error().code() == "INVALID_ARG"
    assert (
        refused.error().message()
        == "x: got shape [1, 4]; accepted: width of at most 3, as served. [INVALID_ARGUMENT field=x]"
    )
    assert engine.batches == [1] and not done.has_error()


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("high_noise_expert", {"hidden_states": (1, 16, 5, 8, 8), "encoder_hidden_states": (1, 64, 192)}),
        ("vae_decoder_next", {"latents": (1, 16, 5, 8, 8), "cache_in_1": (1, 64, 2, 64, 64)}),
        ("text_encoder", {"input_ids": (8, 64), "attention_mask": (8, 64)}),
    ],
)
def test_a_graph_takes_the_largest_clip_and_nothing_beyond(
    name: str, largest: dict[str, tuple[int, ...]], repository: Path
) -> None:
    limits = GraphLimits.of_model(ModelParameters(name, repository / name / "1", {"largest_clip": "64x64x17"}))
    limits.check({tensor: np.empty(shape) for tensor, shape in largest.items()})
    free = {"hidden_states": (2, 3, 4), "latents": (2, 3, 4), "cache_in_1": (3, 4), "encoder_hidden_states": (1, 2)}
    for tensor, shape in largest.items():
        for axis in free.get(tensor, (1,)):
            beyond = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
            with pytest.raises(InvalidField, match=f"{tensor}: got shape .* of (at most )?{shape[axis]}, as served"):
                limits.check({tensor: np.empty(beyond)})


@pytest.mark.parametrize(
    ("name", "tensor", "shape"),
    [
        ("high_noise_expert", "hidden_states", (1, 16, 1, 3, 4)),
        ("low_noise_expert", "hidden_states", (1, 16, 0, 4, 4)),
        ("high_noise_expert", "encoder_hidden_states", (1, 64, 100)),
        ("text_encoder", "attention_mask", (1, 63)),
        ("vae_decoder_first", "latents", (1, 16, 1, 0, 4)),
    ],
)
def test_a_graph_takes_no_shape_that_no_clip_has(
    name: str, tensor: str, shape: tuple[int, ...], repository: Path
) -> None:
    """The engine would compute something, or fail with a traceback in the log."""
    limits = GraphLimits.of_model(ModelParameters(name, repository / name / "1", {"largest_clip": "64x64x17"}))
    with pytest.raises(InvalidField, match=rf"{tensor}: got shape .*; accepted: \w+ of .*, as served"):
        limits.check({tensor: np.empty(shape)})


def test_the_limits_of_a_later_version_are_those_of_the_first(repository: Path) -> None:
    """Plans have one version per clip size; the checkpoint's facts are in the first version of `prepare`."""
    first, later = (ModelParameters("text_encoder", repository / f"text_encoder/{number}", {}) for number in (1, 2))
    assert GraphLimits.of_model(later) == GraphLimits.of_model(first)


def test_a_failure_is_the_answer_of_each_request_that_it_touches_and_of_no_other() -> None:
    requests = [Request(x=np.full((1, 2), 7.0)), Request(x=np.ones((1, 3)))]
    failed, respond_to_all = model(RecordingEngine(poison=7.0)).execute(requests)
    assert failed.error().message() == "RuntimeError: no memory [INTERNAL]"
    assert not respond_to_all.has_error()


def test_a_graph_that_is_not_its_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing. Run `make export`"):
        installed_graph(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"onnx_sha256": "0" * 64}))
    with pytest.raises(FileNotFoundError, match=r"model.onnx is missing. Run `make export`"):
        installed_graph(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"is not the file that its manifest describes. Run `make export` again."):
        installed_graph(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"onnx_sha256'])
def test_a_damaged_manifest_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"a plan")
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(
        InstalledFileError, match=r"plan.json is damaged .*. Run `python3 -m deploy.image.build_plans` again"
    ):
        installed_graph(tmp_path, "tensorrt")


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_reads_its_own_file_and_manifest(engine: str, tmp_path: Path) -> None:
    file = GRAPH_FILES[engine]
    with pytest.raises(FileNotFoundError, match=rf"{file.manifest} is missing. Run `{file.command}"):
        installed_graph(tmp_path, engine)
    (tmp_path / file.name).write_bytes(b"a graph")
    digest = hashlib.sha256(b"a graph").hexdigest()
    (tmp_path / file.manifest).write_text(json.dumps({file.hash_key: digest}))
    assert installed_graph(tmp_path, engine) == tmp_path / file.name
    (tmp_path / file.name).write_bytes(b"another")
    with pytest.raises(ValueError, match=rf"Run `{file.command}` again."):
        installed_graph(tmp_path, engine)


def test_a_torch_program_of_another_checkpoint_than_the_graph_beside_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a run for another checkpoint that broke off before it installed that checkpoint's other files."""
    monkeypatch.setattr(graph, "engine_from_file", lambda path, _: path)
    program, settings = tmp_path / "model.pt2", EngineSettings("torch")
    program.write_bytes(b"a program")
    made_from = {"checkpoint_sha256": "a", "precision": "bf16"}
    (tmp_path / "program.json").write_text(json.dumps({**made_from, "program_sha256": sha256_of_file(program)}))
    for there in ({}, {"checkpoint_sha256": "a", "precision": "fp32"}):
        if there:
            (tmp_path / "manifest.json").write_text(json.dumps(there))
        assert load_installed_engine(parameters(), tmp_path, settings) == program  # type: ignore[comparison-overlap]
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoint_sha256": "b"}))
    with pytest.raises(
        InstalledFileError, match=r"program.json and .*manifest.json are of different checkpoints.*to_torch_program"
    ):
        load_installed_engine(parameters(), tmp_path, settings)


def parameters(**values: str) -> ModelParameters:
    return ModelParameters("text_encoder", Path("/nowhere"), values)


def test_the_engine_is_a_parameter() -> None:
    assert engine_settings(parameters(threads="2"), "cpu") == EngineSettings("onnxruntime", "cpu", threads=2)
    compiled = parameters(engine="torch", torch_compile="inductor")
    assert engine_settings(compiled, "cuda:1") == EngineSettings("torch", "cuda:1", torch_compile="inductor")


def test_an_engine_that_is_unknown_or_needs_a_gpu_is_refused() -> None:
    with pytest.raises(
        ParameterError,
        match="text_encoder: parameter engine is 'tflite', accepted: onnxruntime, torch, tensorrt, openvino",
    ):
        engine_settings(parameters(engine="tflite", threads="1"), "cpu")
    with pytest.raises(ParameterError, match="needs a GPU, but its instance_group has kind KIND_CPU"):
        engine_settings(parameters(engine="tensorrt", threads="1"), "cpu")
    assert engine_settings(parameters(engine="torch", tf32="1"), "cuda:0").tf32


def test_the_precision_of_openvino_is_a_parameter_of_it_alone() -> None:
    chosen = {"engine": "openvino", "threads": "1"}
    assert engine_settings(parameters(**chosen), "cpu").inference_precision == "f32"
    assert engine_settings(parameters(**chosen, inference_precision="bf16"), "cpu").inference_precision == "bf16"
    with pytest.raises(ParameterError, match="inference_precision is 'fp16', accepted: f32, bf16"):
        engine_settings(parameters(**chosen, inference_precision="fp16"), "cpu")
    with pytest.raises(ParameterError, match="is for openvino alone, but engine is 'onnxruntime'"):
        engine_settings(parameters(threads="1", inference_precision="bf16"), "cpu")
    with pytest.raises(ParameterError, match="for the CPU here, but its instance_group has kind KIND_GPU"):
        engine_settings(parameters(**chosen), "cuda:0")
    with pytest.raises(ParameterError, match="tf32 is 'yes', accepted: 0, 1"):
        engine_settings(parameters(engine="torch", tf32="yes"), "cuda:0")


def test_a_plan_is_loaded_only_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before TensorRT reads 28 GB: another version or another GPU is refused with the command that rebuilds it."""
    here = RunningGpu("NVIDIA H100 80GB HBM3", "9.0", "580.1")
    monkeypatch.setattr(graph, "running_gpu", lambda: here)
    monkeypatch.setattr(graph, "tensorrt_module", lambda name: fake_tensorrt)
    version = TensorRtVersion("tensorrt", fake_tensorrt.__version__)
    manifest = plan_manifest(
        graph="text_encoder",
        tensorrt=version,
        gpu=here,
        onnx_sha256="a",
        deployment=PlannedDeployment(("480x832x81",), 1),
    )
    (tmp_path / "plan.json").write_text(to_json(manifest))
    assert matching_module(tmp_path) == "tensorrt"
    monkeypatch.setattr(graph, "running_gpu", lambda: None)
    with pytest.raises(PlanMismatch, match="the driver shows none.*deploy.image.build_plans .*--sizes 480x832x81"):
        matching_module(tmp_path)
    monkeypatch.setattr(graph, "running_gpu", lambda: here)
    (tmp_path / "manifest.json").write_text(json.dumps({"onnx_sha256": "b"}))
    with pytest.raises(PlanMismatch, match="exported again after it was built"):
        matching_module(tmp_path)
