"""Checkpoints that change between their hashes and the manifests: nothing made from them is sealed."""

import json
import shutil
from pathlib import Path

import pytest

from export import to_torch_program
from export.checkpoint.folder import Checkpoint, CheckpointError
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.to_onnx import export_checkpoint
from export.to_onnx.graph_export import ExportSettings, GraphExport
from export.unchanged_checkpoint import check_unchanged
from tests.fakes.small_graphs import outer_product_graph
from tests.unit.export.lora.lora_files import MINI, of_diffusers, of_kohya, saved

CHANGED = "the checkpoint changed during the export.*LORA_INTO="
EXPERT = "high_noise_expert"


def merge(lora: Path, into: Path) -> Checkpoint:
    return Checkpoint.open(merge_loras(Checkpoint.open(MINI), LoraChoice(str(lora), "none"), into))


@pytest.fixture
def replaced(tmp_path: Path) -> Checkpoint:
    """A merged checkpoint that was opened and hashed before another merge replaced it."""
    checkpoint = merge(saved(tmp_path / "a.safetensors", of_diffusers()), tmp_path / "merged")
    check_unchanged(checkpoint, "transformer")
    assert checkpoint.merged_loras
    merge(saved(tmp_path / "b.safetensors", of_kohya()), checkpoint.folder)
    return checkpoint


def test_a_graph_of_another_merge_gets_no_manifest(
    replaced: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphExport, "_compare", lambda _: ([], "the graph is a stand-in"))
    (tmp_path / EXPERT).mkdir()
    outer_product_graph(tmp_path / EXPERT / "model.onnx")
    with pytest.raises(CheckpointError, match=CHANGED):
        GraphExport(EXPERT, replaced, tmp_path, ExportSettings()).seal(None)
    assert not (tmp_path / EXPERT / "manifest.json").exists()
    GraphExport(EXPERT, Checkpoint.open(replaced.folder), tmp_path, ExportSettings()).seal(None)
    manifest = json.loads((tmp_path / EXPERT / "manifest.json").read_text())
    assert [lora["file"] for lora in manifest["loras"]] == ["b.safetensors"]


def test_a_torch_program_of_another_merge_gets_no_manifest(
    replaced: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_torch_program, "write_program", lambda module, call, path: path.touch())
    monkeypatch.setattr(to_torch_program, "_check", lambda *_: 0.0)
    made_from = to_torch_program._origin(replaced, EXPERT, "fp32", external=False)
    with pytest.raises(CheckpointError, match=CHANGED):
        to_torch_program._write(EXPERT, replaced, tmp_path / EXPERT, made_from, external=False)
    assert [path.name for path in (tmp_path / EXPERT).iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("file", ["serving_defaults.json", "scheduler/scheduler_config.json", "vae/config.json"])
def test_a_changed_config_is_seen_without_hashes(file: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINI, tmp_path / "mini"))
    checkpoint = Checkpoint.open(folder)
    check_unchanged(checkpoint)
    config = json.loads((folder / file).read_text())
    change = {
        "serving_defaults.json": {"num_inference_steps": {"value": 7, "source": "a test"}},
        "scheduler/scheduler_config.json": {"flow_shift": 7.0},
        "vae/config.json": {"latents_mean": [0.5, *config.get("latents_mean", [])[1:]]},
    }[file]
    (folder / file).write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=CHANGED):
        check_unchanged(checkpoint)


def test_values_that_change_in_place_are_seen_by_the_hash(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINI, tmp_path / "mini"))
    checkpoint = Checkpoint.open(folder)
    check_unchanged(checkpoint, "vae")
    with (folder / "vae/diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x3c")
    check_unchanged(checkpoint)
    with pytest.raises(CheckpointError, match=CHANGED):
        check_unchanged(checkpoint, "vae")


def test_model_files_of_a_changed_checkpoint_get_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(MINI, tmp_path / "mini"))

    def change(*_: object, **__: object) -> None:
        (folder / "serving_defaults.json").unlink()

    monkeypatch.setattr(GraphExport, "is_current", True)
    monkeypatch.setattr(export_checkpoint, "write_preview", change)
    with pytest.raises(CheckpointError, match=CHANGED):
        export_checkpoint.export_checkpoint(Checkpoint.open(folder), tmp_path / "export")
    assert not (tmp_path / "export/manifest.json").exists()
