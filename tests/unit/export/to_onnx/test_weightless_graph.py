"""Graphs whose weights stay in the checkpoint's files: the same numbers as the checkpoint's modules."""

import functools
import json
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from export.checkpoint.folder import Checkpoint, CheckpointError
from export.graphs.registry import GRAPHS
from export.parity.graph_parity import parity_of
from export.to_onnx.a14b_dummy import write_dummy
from export.to_onnx.check import GraphError, check_shapes
from export.to_onnx.export_in_place import InPlaceGraph, export_in_place
from export.to_onnx.exporter import onnx_from_module
from tests.fakes.small_configs import small_configs
from wan_t2v.contract import VAE_DECODERS
from wan_t2v.facts import FACTS_FILE
from wan_t2v.shapes import VideoShape

EXPERT = "high_noise_expert"


def filled(folder: Path, dtype: torch.dtype, shard_size: str) -> Path:
    """A small checkpoint of Wan's architecture with random weights, saved by the libraries themselves, in shards."""
    write_dummy(folder, small_configs())
    torch.manual_seed(0)
    for component in ("text_encoder", "transformer", "transformer_2", "vae"):
        config = json.loads((folder / component / "config.json").read_text())
        if component == "text_encoder":
            module = UMT5EncoderModel(UMT5Config(**config))
        else:
            module = {"vae": AutoencoderKLWan}.get(component, WanTransformer3DModel).from_config(config)
        for path in (folder / component).glob("*.safetensors*"):
            path.unlink()
        spread_norms(module)
        module.to(dtype).save_pretrained(folder / component, max_shard_size=shard_size)
    (folder / FACTS_FILE).write_text(Checkpoint.open(folder).facts.to_json())
    return folder


def spread_norms(module: torch.nn.Module) -> None:
    """At exactly one, a graph that lost a norm's weight would pass."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith(("weight", "gamma")):
                parameter.mul_(1.0 + 0.2 * torch.randn_like(parameter))


@pytest.fixture(scope="module")
def fp32_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("fp32") / "checkpoint", torch.float32, "400KB")


@pytest.fixture(scope="module")
def half_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("fp16") / "checkpoint", torch.float16, "400KB")


Exporter = Callable[[str, str], InPlaceGraph]


@pytest.fixture(scope="module")
def exported_once(fp32_shards: Path) -> Exporter:
    """Each graph is exported in a precision when the first test needs it."""
    return functools.cache(lambda graph, precision: export_in_place(Checkpoint.open(fp32_shards), graph, precision))


IN_NIGHTLY = ("low_noise_expert",)  # of the high-noise expert's form


def relative_error(checkpoint: Path, found: dict[str, InPlaceGraph], graph: str, precision: str) -> float:
    files = {name: graph.path for name, graph in found.items()}
    comparisons = parity_of(graph, Checkpoint.open(checkpoint), checkpoint, precision=precision, files=files)
    return max(comparison.relative for comparison in comparisons)


@pytest.mark.parametrize(
    "graph", [pytest.param(g, marks=pytest.mark.nightly if g in IN_NIGHTLY else ()) for g in GRAPHS]
)
def test_a_graph_of_offsets_computes_what_the_module_computes(
    graph: str, fp32_shards: Path, exported_once: Exporter
) -> None:
    found = exported_once(graph, "fp32")
    needed = ("vae_decoder_first", graph) if graph == "vae_decoder_next" else (graph,)  # which makes its caches
    assert relative_error(fp32_shards, {name: exported_once(name, "fp32") for name in needed}, graph, "fp32") < 1e-5
    assert found.path.parent == fp32_shards / GRAPHS[graph].component
    assert found.external_data.casts == 0
    assert len(found.external_data.files) > 1, "the checkpoint should be in shards"
    inside = sum(len(t.raw_data) for t in onnx.load(found.path, load_external_data=False).graph.initializer)
    assert inside < 300_000, "weights were copied into the graph"  # rotary tables: 1024 x 32 cosines and sines


def test_every_parameter_of_the_decoder_and_of_no_other_part_is_attached(exported_once: Exporter) -> None:
    vae = AutoencoderKLWan.from_config(small_configs()["vae/config.json"])
    decoder = sum(p.numel() for part in (vae.decoder, vae.post_quant_conv) for p in part.parameters())
    for graph in VAE_DECODERS:
        assert exported_once(graph, "fp32").external_data.parameters == decoder


def test_half_precision_shards_under_an_fp32_graph_are_cast(half_shards: Path) -> None:
    found = export_in_place(Checkpoint.open(half_shards), "text_encoder", "fp32")
    assert found.external_data.casts == found.external_data.tensors > 15
    assert relative_error(half_shards, {"text_encoder": found}, "text_encoder", "fp32") < 1e-5


def test_fp32_shards_under_an_fp16_graph_keep_the_islands(fp32_shards: Path, exported_once: Exporter) -> None:
    found = exported_once(EXPERT, "fp16")
    islands = WanTransformer3DModel._keep_in_fp32_modules
    names = WanTransformer3DModel.from_config(small_configs()["transformer/config.json"]).state_dict()
    kept = sum(not set(islands).isdisjoint(name.split(".")) for name in names)
    assert found.external_data.casts == len(names) - kept and kept > 10
    assert 1e-5 < relative_error(fp32_shards, {EXPERT: found}, EXPERT, "fp16") < 3e-3


@pytest.mark.parametrize(
    ("graph", "precision"),
    [(EXPERT, "fp16"), pytest.param(EXPERT, "bf16", marks=pytest.mark.nightly), ("text_encoder", "bf16")],
)
def test_the_weightless_graph_has_the_types_of_the_loaded_modules_graph(
    graph: str, precision: str, fp32_shards: Path, exported_once: Exporter, tmp_path: Path
) -> None:
    """Exported twice, from nothing and from the module that the library loads in this precision."""
    checkpoint = Checkpoint.open(fp32_shards)
    module, facts = checkpoint.module(GRAPHS[graph].component, precision), checkpoint.facts
    loaded = onnx.load(onnx_from_module(module, graph, facts, tmp_path / "loaded.onnx"))
    weightless = onnx.load(exported_once(graph, precision).path, load_external_data=False)
    assert types_of_values(weightless) == types_of_values(loaded)
    types = {"bf16": "BFLOAT16", "fp16": "FLOAT16"}
    expected = {"hidden_states": 0, "timestep": "FLOAT", "encoder_hidden_states": 0, "velocity": 0}
    if graph == EXPERT:
        assert types_of_values(weightless)[0] == {n: t or types[precision] for n, t in expected.items()}


def types_of_values(model: onnx.ModelProto) -> tuple[dict[str, str], Counter[tuple[str, str]]]:
    """Types of inputs and outputs, and how many results of each kind of node have each type, conversions of weights
    apart.
    """
    name_of = onnx.TensorProto.DataType.Name
    doors = {v.name: name_of(v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)}
    types = {v.name: name_of(v.type.tensor_type.elem_type) for v in model.graph.value_info}
    kinds = ("Conv", "MatMul", "Gemm", "Attention", "RMSNormalization", "LayerNormalization", "Softmax", "Gelu", "Cos")
    results = Counter((node.op_type, types[node.output[0]]) for node in model.graph.node if node.op_type in kinds)
    return doors, results


def test_a_checkpoint_that_does_not_fit_its_config_fails_before_tracing(tmp_path: Path) -> None:
    configs = small_configs()
    checkpoint = write_dummy(tmp_path / "checkpoint", configs)
    for component in ("transformer", "transformer_2"):
        path = checkpoint / component / "config.json"
        path.write_text(json.dumps({**configs["transformer/config.json"], "num_layers": 3, "ffn_dim": 128}))
    with pytest.raises(
        CheckpointError, match=r"transformer: the weights .* missing: blocks.2.* of another shape: blocks"
    ):
        export_in_place(Checkpoint.open(checkpoint), EXPERT, "bf16")
    assert not list(checkpoint.rglob("*.onnx"))


def test_a_graph_that_cannot_be_written_whole_is_not_written(fp32_shards: Path, tmp_path: Path) -> None:
    """A file of at most 20 kB stands for a full disk; the graph has ten times that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(fp32_shards.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            export_in_place(Checkpoint.open(fp32_shards), "text_encoder", "bf16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p for p in sorted(fp32_shards.rglob("*")) if p not in before] == []


def test_a_graph_of_another_shape_than_the_contracts_is_refused(exported_once: Exporter, fp32_shards: Path) -> None:
    """The first graph checked as if it were the second, which makes four frames of each."""
    facts = Checkpoint.open(fp32_shards).facts
    with pytest.raises(GraphError, match=r"frames has the shape \(1, 3, 1, 64, 64\), expected \(1, 3, 4, 64, 64\)"):
        path = exported_once("vae_decoder_first", "fp32").path
        check_shapes(path, "vae_decoder_next", facts, (VideoShape(5, 64, 64),))
