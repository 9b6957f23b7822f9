"""FP8 weights of an expert whose other weights stay in the checkpoint's shards."""

import json
import shutil
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
from export.fp8 import weights
from export.fp8.weights import FP8, data_file, fp8_bytes, write_fp8_weights
from export.graphs.fp8_layers import LINEARS_OF_A_BLOCK, Fp8Linear
from export.graphs.quantised_experts import quantise
from export.to_onnx.export_in_place import export_in_place
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
    assert data_file(found.path).stat().st_size == elements == fp8_bytes(folder, "transformer")
    assert data_file(found.path).name in found.external_data.files


class TwoLayers(nn.Module):
    """One layer in FP8 and one that stays."""

    def __init__(self, first: Any, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[TwoLayers, dict[str, StoredTensor]]:
    """What lies in a shard, and a module without values as the export prepares it."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {"first.weight": torch.randn(24, 40), "second.weight": torch.randn(40, 24)}
    weights = {name: weight.to(request.param) for name, weight in weights.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    with torch.device("meta"):
        bare = TwoLayers(nn.Linear(40, 24), nn.Linear(24, 40))
    bare.first = Fp8Linear(bare.first, 4.0, 4.0)
    return bare, stored_tensors(tmp_path, "transformer")


def graph_in(tmp_path: Path) -> Path:
    path = tmp_path / "transformer/expert.fp8.onnx"
    path.write_text("an earlier graph")
    return path


def written(path: Path, stored: tuple[TwoLayers, dict[str, StoredTensor]]) -> bytes:
    with write_fp8_weights(path, *stored, torch.float32) as placed:
        assert not path.exists(), "a graph of other scales must not stay beside the new weights"
        assert placed["second.weight"] == stored[1]["second.weight"]
        place = placed["first.weight"]
        assert (place.path, place.dtype, place.shape) == (data_file(path), FP8, (40, 24))
    return place.path.read_bytes()[place.offset : place.offset + place.nbytes]


def test_a_weight_is_rounded_and_transposed_as_in_the_module_whole_or_in_pieces(
    stored: tuple[TwoLayers, dict[str, StoredTensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = stored[1]["first.weight"]
    with weight.path.open("rb") as file:
        file.seek(weight.offset)
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[weight.dtype]
        loaded = torch.frombuffer(bytearray(file.read(weight.nbytes)), dtype=dtype).reshape(24, 40).float()
    linear = nn.Linear(40, 24).requires_grad_(False)
    linear.weight.copy_(loaded)
    expected = Fp8Linear(linear, 4.0, 4.0).weight.view(torch.uint8).numpy().tobytes()
    assert written(graph_in(tmp_path), stored) == expected
    monkeypatch.setattr(weights, "_READ_BYTES", 700)
    assert written(graph_in(tmp_path), stored) == expected


def test_an_export_that_fails_leaves_no_file(stored: tuple[TwoLayers, dict[str, StoredTensor]], tmp_path: Path) -> None:
    path = graph_in(tmp_path)
    with pytest.raises(RuntimeError, match="tracing failed"), write_fp8_weights(path, *stored, torch.float32):
        assert data_file(path).exists()
        raise RuntimeError("tracing failed")
    assert not data_file(path).exists() and not path.exists()


def test_too_little_disk_is_told_before_anything_is_touched(
    stored: tuple[TwoLayers, dict[str, StoredTensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graph_in(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("export.fp8.weights.shutil.disk_usage", lambda _: free)
    told = pytest.raises(CheckpointError, match=r"the weights in FP8 take .* and 0.0 GB are free")
    with told, write_fp8_weights(path, *stored, torch.float32):
        pass
    assert path.exists() and not data_file(path).exists()


def test_zeros_of_a_sparse_dummy_take_no_disk(tmp_path: Path) -> None:
    layer = Fp8Linear(nn.Linear(1024, 1024).requires_grad_(False), 1.0, 1.0)
    shard = tmp_path / "hollow.safetensors"
    with shard.open("wb") as file:
        file.truncate(1024 * 1024 * 4)
    hollow = StoredTensor(shard, "F32", (1024, 1024), 0, 1024 * 1024 * 4)
    path = tmp_path / "expert.fp8.onnx"
    with write_fp8_weights(path, TwoLayers(layer, nn.Linear(1, 1)), {"first.weight": hollow}, torch.bfloat16):
        found = data_file(path).stat()
    assert found.st_size == 1024 * 1024 and found.st_blocks * 512 < 64 * 1024


def test_a_module_without_fp8_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "expert.bf16.onnx"
    with write_fp8_weights(path, nn.Linear(4, 4), {}, torch.bfloat16) as placed:
        assert placed == {}
    assert not data_file(path).exists()
