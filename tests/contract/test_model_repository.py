"""Every config parses with Triton's own protobuf and says what the contract says; every graph agrees with both."""

import ast
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from wan_t2v.contract import MODELS, Dtype, ModelSpec, TensorSpec

GRAPHS = [name for name, spec in MODELS.items() if spec.batches]
CONFIGS = {"A14B": "config.pbtxt", "cpu": "configs/cpu.pbtxt"}
A14B_DIMS = {"text_length": 512, "text_dim": 4096}
TRITON_TYPES = {
    Dtype.BYTES: {"TYPE_STRING"},
    Dtype.INT32: {"TYPE_INT32"},
    Dtype.INT64: {"TYPE_INT64"},
    Dtype.FP32: {"TYPE_FP32"},
    Dtype.UINT8: {"TYPE_UINT8"},
    Dtype.GRAPH: {"TYPE_FP32", "TYPE_BF16"},
}
ONNX_TYPES = {
    Dtype.INT64: onnx.TensorProto.INT64,
    Dtype.FP32: onnx.TensorProto.FLOAT,
    Dtype.GRAPH: onnx.TensorProto.FLOAT,
}


def config_of(repository: Path, model: str, which: str) -> ModelConfig | None:
    path = repository / model / CONFIGS[which]
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig()) if path.exists() else None


def configs(repository: Path) -> list[tuple[str, str, ModelConfig]]:
    found = [(model, which, config_of(repository, model, which)) for model in MODELS for which in CONFIGS]
    return [(model, which, config) for model, which, config in found if config is not None]


def check_dims(where: str, spec: TensorSpec, dims: list[int]) -> None:
    assert len(dims) == len(spec.dims), f"{where}: {dims} against {spec.dims}"
    for dim, expected in zip(dims, spec.dims, strict=True):
        if isinstance(expected, int):
            assert dim == expected, f"{where}: {dims} against {spec.dims}"
        elif not expected.startswith("cache_"):
            assert dim in (-1, A14B_DIMS.get(expected, -1)), f"{where}: {expected} is {dim}"


def test_the_repository_holds_model_folders_only(root: Path) -> None:
    """Any other folder stops the server."""
    tracked = {path.name for path in (root / "model_repository").iterdir() if not path.name.startswith(".")}
    assert tracked == set(MODELS)


def test_there_is_a_config_for_a14b_and_for_the_embedded_server(repository: Path) -> None:
    found = {(model, which) for model, which, _ in configs(repository)}
    assert {model for model, which in found if which == "A14B"} == set(MODELS)
    assert {model for model, which in found if which == "cpu"} == set(MODELS) - {"text_to_video"}


def test_configs_agree_with_the_contract(repository: Path) -> None:
    for model, which, config in configs(repository):
        spec: ModelSpec = MODELS[model]
        assert config.name == model
        assert (config.max_batch_size > 0) == spec.batches, f"{model} {which}"
        for tensors, specs in ((config.input, spec.inputs), (config.output, spec.outputs)):
            assert [tensor.name for tensor in tensors] == [expected.name for expected in specs], f"{model} {which}"
            for tensor, expected in zip(tensors, specs, strict=True):
                where = f"{model} {which} {tensor.name}"
                type_name = (
                    type(tensor)
                    .DESCRIPTOR.fields_by_name["data_type"]
                    .enum_type.values_by_number[tensor.data_type]
                    .name
                )
                assert type_name in TRITON_TYPES[expected.dtype], where
                assert getattr(tensor, "optional", False) == expected.optional, where
                check_dims(where, expected, list(tensor.dims))


def test_graphs_run_on_tensorrt_for_a14b_and_in_python_on_the_embedded_server(repository: Path) -> None:
    for model in GRAPHS:
        a14b, cpu = (config_of(repository, model, which) for which in CONFIGS)
        assert a14b is not None and cpu is not None
        assert (a14b.backend, cpu.backend) == ("tensorrt", "python")
        assert a14b.instance_group[0].count == 1, "a second instance of a plan would load its weights again"


def test_both_endpoints_have_the_same_limits(repository: Path) -> None:
    for which in CONFIGS:
        denoiser, stream = (config_of(repository, model, which) for model in ("denoiser", "text_to_video_stream"))
        assert denoiser is not None and stream is not None
        for name in ("max_in_flight", "max_queued"):
            assert denoiser.parameters[name].string_value == stream.parameters[name].string_value != "", (which, name)


def test_graphs_on_the_embedded_server_take_no_larger_clip_than_prepare(repository: Path) -> None:
    prepare = config_of(repository, "prepare", "cpu")
    assert prepare is not None
    for graph in set(GRAPHS) - {"text_encoder"}:
        config = config_of(repository, graph, "cpu")
        assert config is not None
        assert config.parameters["largest_clip"] == prepare.parameters["largest_clip"], graph


def test_the_vae_graphs_on_the_embedded_server_take_as_many_latent_frames_as_both_endpoints_send(
    repository: Path,
) -> None:
    """A graph that takes fewer would refuse a clip after all its steps."""
    models = ("vae_decoder", "text_to_video_stream", "vae_decoder_first", "vae_decoder_next")
    cpu = [config_of(repository, model, "cpu") for model in models]
    assert {config.parameters["latent_frames_per_call"].string_value for config in cpu if config is not None} == {"5"}


def test_only_the_text_encoder_is_cached(repository: Path) -> None:
    for model, which, config in configs(repository):
        assert config.response_cache.enable == (model == "text_encoder"), f"{model} {which}"


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_exported_graph_agrees_with_the_contract(graph: str, repository: Path) -> None:
    model = onnx.load(repository / graph / "1/model.onnx")
    for values, specs in ((model.graph.input, MODELS[graph].inputs), (model.graph.output, MODELS[graph].outputs)):
        assert [value.name for value in values] == [spec.name for spec in specs]
        for value, spec in zip(values, specs, strict=True):
            tensor = value.type.tensor_type
            assert tensor.elem_type == ONNX_TYPES[spec.dtype], value.name
            batch, *dims = tensor.shape.dim
            assert batch.dim_param == "batch", value.name
            for dim, expected in zip(dims, spec.dims, strict=True):
                if isinstance(expected, int):
                    assert dim.dim_value == expected, f"{value.name}: {expected}"
                elif expected not in ("text_dim", "cache_channels"):
                    assert dim.dim_param, f"{value.name}: {expected} is the constant {dim.dim_value}"


def test_cache_channels_of_a14b_are_six_times_wan_minis(repository: Path) -> None:
    """Its VAE is the same network with a base of 96 channels where wan-mini has 16; the latents' 16 stay."""
    config = config_of(repository, "vae_decoder_next", "A14B")
    assert config is not None
    channels = {tensor.name: tensor.dims[0] for tensor in config.input if tensor.name.startswith("cache_")}
    model = onnx.load(repository / "vae_decoder_next/1/model.onnx")
    mini = {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.input}
    assert channels == {name: (1 if name == "cache_in_0" else 6) * mini[name] for name in channels}


def test_the_ensemble_wires_every_tensor_of_its_steps(repository: Path) -> None:
    config = config_of(repository, "text_to_video", "A14B")
    assert config is not None
    known = {tensor.name for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        spec = MODELS[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in spec.inputs}
        assert set(step.output_map) == {tensor.name for tensor in spec.outputs}
        assert set(step.input_map.values()) <= known, step.model_name
        assert not set(step.output_map.values()) & known, "2.51 silently drops a tensor that is named twice"
        known |= set(step.output_map.values())
    assert {tensor.name for tensor in config.output} <= known


def test_model_files_are_shells(root: Path) -> None:
    for path in sorted((root / "model_repository").glob("*/*/model.py")):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 25, path
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, ast.If | ast.For | ast.While | ast.Try), f"{path}: behaviour in a shell"
