"""FP32 shards copied into BF16 ones: the numbers that diffusers would load, no Casts, little memory, safe to stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from export.checkpoint.component_configs import EXPERT_COMPONENTS
from export.checkpoint.folder import Checkpoint
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.graphs.precision import FOR_LARGE_WEIGHTS, PrecisionError, Precisions
from export.graphs.registry import GRAPHS
from export.to_onnx import bf16_shards
from export.to_onnx.a14b_dummy import write_dummy
from export.to_onnx.bf16_shards import bf16_folder, bf16_shards_need, write_bf16_shards
from export.to_onnx.export_checkpoint import export_checkpoint
from export.to_onnx.export_in_place import export_in_place
from export.to_onnx.graph_export import ExportSettings
from tests.fakes.small_configs import small_configs


def filled(folder: Path) -> Path:
    """Experts with random weights in shards of FP32, saved by diffusers itself."""
    write_dummy(folder, small_configs(layers=1))
    torch.manual_seed(0)
    for component in EXPERT_COMPONENTS:
        for path in (folder / component).glob("*.safetensors*"):
            path.unlink()
        config = json.loads((folder / component / "config.json").read_text())
        WanTransformer3DModel.from_config(config).save_pretrained(folder / component, max_shard_size="400KB")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return filled(tmp_path / "checkpoint")


def loaded(folder: Path, component: str) -> dict[str, torch.Tensor]:
    return {n: t for path in (folder / component).glob("*.safetensors") for n, t in load_file(path).items()}


def test_the_copies_hold_what_diffusers_loads_in_bf16(checkpoint: Path) -> None:
    before = loaded(checkpoint, "transformer")
    folder = write_bf16_shards(checkpoint)
    expected = WanTransformer3DModel.from_pretrained(
        checkpoint, subfolder="transformer", torch_dtype=torch.bfloat16, local_files_only=True
    ).state_dict()
    copies = loaded(folder, "transformer")
    assert copies.keys() == before.keys() == expected.keys()
    for name, tensor in copies.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    assert {tensor.dtype for tensor in copies.values()} == {torch.bfloat16, torch.float32}
    assert stored_tensors(folder, "transformer_2").keys() == before.keys(), "index and files agree"
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1


def test_a_graph_above_the_copies_casts_no_weight(checkpoint: Path) -> None:
    folder = write_bf16_shards(checkpoint)
    above = export_in_place(Checkpoint.open(checkpoint), "high_noise_expert", "bf16", weights_folder=folder)
    assert above.external_data.casts == 0 and above.path.parent == folder / "transformer"


@pytest.mark.nightly  # three exports, each in processes of its own
def test_the_export_makes_the_copies_and_tells_graphs_of_either_kind_apart(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {graph: GRAPHS[graph] for graph in ("low_noise_expert", "text_encoder")}
    monkeypatch.setattr("export.to_onnx.export_checkpoint.GRAPHS", two)
    graphs, written = tmp_path / "graphs", []
    own = ExportSettings(FOR_LARGE_WEIGHTS, external_weights=True, dummy=True)
    copied = ExportSettings(FOR_LARGE_WEIGHTS, external_weights=True, dummy=True, bf16_shards=True)
    export_checkpoint(Checkpoint.open(checkpoint), graphs, own, on_written=lambda found: written.append(found.graph))
    assert sorted(written) == sorted(two)
    export_checkpoint(Checkpoint.open(checkpoint), graphs, copied, on_written=lambda found: written.append(found.graph))
    assert written[2:] == ["low_noise_expert"], "whose weights are now others"
    manifest = json.loads((graphs / "low_noise_expert/manifest.json").read_text())
    assert manifest["bf16_shards"] and manifest["weights"]["casts"] == 0


def test_what_was_stopped_goes_on_where_it_was(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied, left = bf16_shards._copy, [30]

    def stopped(*arguments: object) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        copied(*arguments)  # type: ignore[arg-type]

    whole = bf16_shards_need(checkpoint).needed_bytes
    monkeypatch.setattr(bf16_shards, "_copy", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_bf16_shards(checkpoint)
    finished = {path: path.stat().st_mtime_ns for path in bf16_folder(checkpoint).rglob("*.safetensors")}
    assert finished and not list(bf16_folder(checkpoint).rglob("*.partial"))
    assert 0 < bf16_shards_need(checkpoint).needed_bytes < whole
    write_bf16_shards(checkpoint)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was whole is kept"
    assert bf16_shards_need(checkpoint).needed_bytes == 0
    assert loaded(bf16_folder(checkpoint), "transformer_2").keys() == loaded(checkpoint, "transformer_2").keys()


def test_a_copy_of_other_weights_or_half_a_copy_is_made_again(checkpoint: Path) -> None:
    folder = write_bf16_shards(checkpoint)
    first, second, *_ = sorted((folder / "transformer").glob("*.safetensors"))
    second.write_bytes(second.read_bytes()[:20])
    source = checkpoint / "transformer" / first.name
    changed = bytearray(source.read_bytes())
    changed[-4:] = b"\x00\x00\x80\x3f"
    source.write_bytes(changed)
    before = first.read_bytes()
    write_bf16_shards(checkpoint)
    assert first.read_bytes() != before and second.stat().st_size > 20


LARGE = """
import sys, torch
from pathlib import Path
from export.to_onnx.bf16_shards import _copy
from export.process_cost import process_cost
from export.checkpoint.weights.safetensors_index import StoredTensor
source, target = Path(sys.argv[1]), Path(sys.argv[2])
before = process_cost().peak_mb
with target.open("wb") as file:
    _copy(StoredTensor(source, "F32", (2**27,), 0, 2**29), file, torch.bfloat16)
print(process_cost().peak_mb - before)
"""


def test_a_tensor_of_half_a_gibibyte_takes_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**29)
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "large").unlink()
    assert (tmp_path / "small").stat().st_size == 2**28
    assert int(done.stdout) < 400, "of MB"


@pytest.mark.parametrize("experts", ["fp16", "fp32", "fp8-fp32"])
def test_other_precisions_are_refused(experts: str) -> None:
    with pytest.raises(PrecisionError, match=f"experts in {experts}, accepted: bf16, fp8, fp8-attention"):
        ExportSettings(Precisions(experts=experts), external_weights=True, bf16_shards=True)
    with pytest.raises(PrecisionError, match="--weights external"):
        ExportSettings(FOR_LARGE_WEIGHTS, bf16_shards=True)


def test_a_copy_that_lost_its_end_is_written_again(checkpoint: Path) -> None:
    folder = write_bf16_shards(checkpoint)
    shard = next((folder / "transformer").glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert bf16_shards_need(checkpoint).needed_bytes > 0
    write_bf16_shards(checkpoint)
    assert shard.read_bytes() == whole


def test_a_copy_of_a_killed_process_is_removed(checkpoint: Path) -> None:
    shard = next((checkpoint / "transformer").glob("*.safetensors"))
    home = bf16_folder(checkpoint) / "transformer"
    home.mkdir(parents=True)
    killed, growing = (home / f".{shard.name}.{number}.partial" for number in (10**8, 10**9))
    killed.touch()
    os.utime(killed, (0, 0))
    growing.touch()
    write_bf16_shards(checkpoint)
    assert not killed.exists() and growing.exists(), "another export may be writing it"
