"""Weights in eight bits of an expert whose other weights stay in the checkpoint's shards."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from export.checkpoint.folder import Checkpoint, CheckpointError
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.graphs.fp8_layers import Fp8Linear
from export.graphs.int8_layers import ONNX_RUNTIME, TENSORRT, Int8Linear
from export.graphs.precision import LINEARS_OF_A_BLOCK
from export.graphs.quantised_experts import quantise
from export.parity.integer_products import check_integer_products
from export.quantisation import weights
from export.quantisation.weights import EightBitLinear, data_file, eight_bit_bytes, write_eight_bit_weights
from export.to_onnx.export_in_place import export_in_place
from tests.unit.export.graphs import test_int8_layers
from tests.unit.export.graphs.test_fp8_layers import BLOCKS, arrays, call, check_storage, ranges_of, relative
from tests.unit.export.to_onnx.test_weightless_graph import filled
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine

EXPERT = "high_noise_expert"


@pytest.fixture(scope="module")
def checkpoint_of_three_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = filled(tmp_path_factory.mktemp("fp8") / "checkpoint", torch.float32, "400KB")
    config = json.loads((folder / "transformer/config.json").read_text()) | {"num_layers": BLOCKS}
    (folder / "transformer_2/config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "transformer")
    torch.manual_seed(0)
    WanTransformer3DModel.from_config(config).save_pretrained(folder / "transformer", max_shard_size="400KB")
    return folder


def test_a_graph_refers_to_fp8_weights_beside_it_and_computes_what_the_module_does(
    checkpoint_of_three_blocks: Path,
) -> None:
    folder = checkpoint_of_three_blocks
    module = WanTransformer3DModel.from_pretrained(folder / "transformer").eval().requires_grad_(False)
    ranges = ranges_of(module)

    def prepared(shell: nn.Module) -> nn.Module:
        quantise(cast(WanTransformer3DModel, shell), "fp8-fp32", ranges)
        return shell

    found = export_in_place(Checkpoint.open(folder), EXPERT, "fp8-fp32", prepare=prepared)
    check_storage(onnx.load(found.path))
    quantise(module, "fp8-fp32", ranges)
    inputs = call(module)
    computed = OnnxRuntimeEngine(found.path)(arrays(*inputs))["velocity"]
    assert relative(computed, module(*inputs, return_dict=False)[0].numpy()) < 2e-3
    layers = [layer for layer in module.modules() if isinstance(layer, Fp8Linear)]
    elements = sum(layer.weight.numel() for layer in layers)
    assert len(layers) == LINEARS_OF_A_BLOCK
    assert data_file(found.path).stat().st_size == elements == eight_bit_bytes(folder, "transformer", "fp8-fp32")
    assert data_file(found.path).name in found.external_data.files


def test_a_graph_refers_to_int8_weights_and_scales_beside_it_and_multiplies_whole_numbers(
    checkpoint_of_three_blocks: Path,
) -> None:
    folder = checkpoint_of_three_blocks
    module = WanTransformer3DModel.from_pretrained(folder / "transformer").eval().requires_grad_(False)
    ranges = test_int8_layers.ranges_of(module)
    parameters = sum(parameter.numel() for parameter in module.parameters())

    def prepared(shell: nn.Module) -> nn.Module:
        quantise(cast(WanTransformer3DModel, shell), "int8", ranges)
        return shell

    found = export_in_place(Checkpoint.open(folder), EXPERT, "int8", prepare=prepared)
    check_integer_products(found.path, BLOCKS)
    quantise(module, "int8", ranges)
    inputs = call(module)
    computed = OnnxRuntimeEngine(found.path)(arrays(*inputs))["velocity"]
    assert relative(computed, module(*inputs, return_dict=False)[0].numpy()) < 2e-3
    layers = [layer for layer in module.modules() if isinstance(layer, Int8Linear)]
    expected = sum(layer.weight.nbytes + layer.weight_scales.nbytes for layer in layers)
    assert len(layers) == LINEARS_OF_A_BLOCK * BLOCKS
    assert data_file(found.path).stat().st_size == expected == eight_bit_bytes(folder, "transformer", "int8")
    assert found.external_data.parameters == parameters, "scales are no parameters of the checkpoint"
    inside = sum(len(t.raw_data) for t in onnx.load(found.path, load_external_data=False).graph.initializer)
    assert inside < 300_000, "weights were copied into the graph"


class TwoLayers(nn.Module):
    """One layer in eight bits and one that stays."""

    def __init__(self, first: Any, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second


FORMS: dict[str, Callable[[nn.Linear], EightBitLinear]] = {
    "fp8": lambda linear: Fp8Linear(linear, 4.0, 4.0),
    "int8 for ONNX Runtime": lambda linear: Int8Linear(linear, 4.0, ONNX_RUNTIME),
    "int8 for TensorRT": lambda linear: Int8Linear(linear, 4.0, TENSORRT),
}
Stored = tuple[TwoLayers, dict[str, StoredTensor]]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Callable[[nn.Linear], EightBitLinear]:
    return FORMS[request.param]


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def stored(request: pytest.FixtureRequest, form: Callable[[nn.Linear], EightBitLinear], tmp_path: Path) -> Stored:
    """What lies in a shard, and a module without values as the export prepares it."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {"first.weight": torch.randn(23, 40), "second.weight": torch.randn(40, 24)}
    weights = {name: weight.to(request.param) for name, weight in weights.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    with torch.device("meta"):
        bare = TwoLayers(nn.Linear(40, 23), nn.Linear(24, 40))
    bare.first = form(bare.first)
    return bare, stored_tensors(tmp_path, "transformer")


def graph_in(tmp_path: Path) -> Path:
    path = tmp_path / "transformer/expert.fp8.onnx"
    path.write_text("an earlier graph")
    return path


def written(path: Path, stored: Stored) -> dict[str, bytes]:
    """The bytes of each of the layer's tensors."""
    found = {}
    with write_eight_bit_weights(path, *stored, torch.float32) as placed:
        assert not path.exists(), "a graph of other scales must not stay beside the new weights"
        assert placed["second.weight"] == stored[1]["second.weight"]
        assert placed["first.weight"].shape == (40, 23)
        for name, place in placed.items():
            if name.startswith("first."):
                assert place.path == data_file(path) and place.offset % 8 == 0
                found[name] = place.path.read_bytes()[place.offset : place.offset + place.nbytes]
    return found


def test_a_weight_is_rounded_and_transposed_as_in_the_module_whole_or_in_pieces(
    stored: Stored, form: Callable[[nn.Linear], EightBitLinear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = stored[1]["first.weight"]
    with weight.path.open("rb") as file:
        file.seek(weight.offset)
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[weight.dtype]
        loaded = torch.frombuffer(bytearray(file.read(weight.nbytes)), dtype=dtype).reshape(23, 40).float()
    linear = nn.Linear(40, 23).requires_grad_(False)
    linear.weight.copy_(loaded)
    tensors = {f"first.{name}": tensor for name, tensor in form(linear).named_parameters() if name != "bias"}
    expected = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    assert written(graph_in(tmp_path), stored) == expected
    monkeypatch.setattr(weights, "_READ_BYTES", 700)
    assert written(graph_in(tmp_path), stored) == expected


def test_an_export_that_fails_leaves_no_file(stored: Stored, tmp_path: Path) -> None:
    path = graph_in(tmp_path)
    killed, growing = (data_file(path).with_name(f".{data_file(path).name}.{n}.partial") for n in (10**8, 10**9))
    killed.touch()
    os.utime(killed, (0, 0))
    growing.touch()
    with pytest.raises(RuntimeError, match="tracing failed"), write_eight_bit_weights(path, *stored, torch.float32):
        assert data_file(path).exists()
        raise RuntimeError("tracing failed")
    assert not data_file(path).exists() and not path.exists()
    assert not killed.exists(), "nor does one of before whose process was killed"
    assert growing.exists(), "another export may be writing it, in a container whose processes cannot be seen"


def test_too_little_disk_is_told_before_anything_is_touched(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graph_in(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("export.quantisation.weights.shutil.disk_usage", lambda _: free)
    told = pytest.raises(CheckpointError, match=r"the weights in eight bits take .* and 0.0 GB are free")
    with told, write_eight_bit_weights(path, *stored, torch.float32):
        pass
    assert path.exists() and not data_file(path).exists()


def test_zeros_of_a_sparse_dummy_take_no_disk(tmp_path: Path) -> None:
    layer = Fp8Linear(nn.Linear(1024, 1024).requires_grad_(False), 1.0, 1.0)
    shard = tmp_path / "hollow.safetensors"
    with shard.open("wb") as file:
        file.truncate(1024 * 1024 * 4)
    hollow = StoredTensor(shard, "F32", (1024, 1024), 0, 1024 * 1024 * 4)
    path = tmp_path / "expert.fp8.onnx"
    with write_eight_bit_weights(path, TwoLayers(layer, nn.Linear(1, 1)), {"first.weight": hollow}, torch.bfloat16):
        found = data_file(path).stat()
    assert found.st_size == 1024 * 1024 and found.st_blocks * 512 < 64 * 1024


def test_a_module_without_eight_bits_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "expert.bf16.onnx"
    with write_eight_bit_weights(path, nn.Linear(4, 4), {}, torch.bfloat16) as placed:
        assert placed == {}
    assert not data_file(path).exists()
