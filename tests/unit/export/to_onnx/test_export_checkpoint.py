import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.__main__ import main
from export.checkpoint.folder import (
    Checkpoint,
    CheckpointError,
)
from export.graphs.registry import GRAPHS
from export.parity.graph_parity import ParityError, parity_of
from export.to_onnx.install import READ_BY, install_export
from export.to_onnx.manifest import is_current
from export.to_onnx.model_files import seal_model_files
from wan_t2v.installed_files import FILES_MANIFEST, check_installed
from wan_t2v.manifests import GraphManifest, GraphOrigin, read_manifest


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    """The exported graphs of wan-mini, to break."""
    return Path(shutil.copytree(exported, tmp_path / "wan-mini"))


@pytest.fixture
def configs(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint folder without weights."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint", ignore=ignore))


def test_facts_are_read_from_the_checkpoints_own_configs(configs: Path) -> None:
    facts = Checkpoint.open(configs).facts
    assert (facts.grid.channels, facts.grid.time_stride, facts.grid.space_stride, facts.grid.patch) == (16, 4, 8, 2)
    assert (facts.boundary_timestep, facts.text_length) == (875.0, 64)
    vae = json.loads((configs / "vae/config.json").read_text())
    assert list(facts.latents_std) == vae["latents_std"] and list(facts.latents_mean) == vae["latents_mean"]


def test_a_graph_that_differs_from_its_module_fails_the_command(
    broken: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One weight of the text encoder changed by a hundredth."""
    path = broken / "text_encoder/model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, path)
    with pytest.raises(ParityError, match=r"text_encoder: relative error .*, accepted up to 1e-04"):
        parity_of("text_encoder", Checkpoint.open(checkpoint), broken)
    assert main(["parity", "--checkpoint", str(checkpoint), "--folder", str(broken)]) == 1
    assert "error: text_encoder: relative error" in capsys.readouterr().err


def test_a_manifest_tells_whether_a_graph_is_current(broken: Path) -> None:
    manifest = read_manifest(GraphManifest, broken / "text_encoder/manifest.json")
    origin = GraphOrigin(**{field.name: getattr(manifest, field.name) for field in fields(GraphOrigin)})
    assert is_current(broken / "text_encoder", origin)
    assert not is_current(broken / "text_encoder", replace(origin, checkpoint_sha256="another"))
    assert not is_current(broken / "text_encoder", replace(origin, checkpoint_sampled=True))
    assert len(manifest.parity.comparisons) >= 3
    with (broken / "text_encoder/model.onnx").open("r+b") as file:
        file.truncate(1000)
    assert not is_current(broken / "text_encoder", origin), "a damaged graph is exported again"


def test_another_models_checkpoint_is_refused(configs: Path) -> None:
    index = json.loads((configs / "model_index.json").read_text())
    (configs / "model_index.json").write_text(json.dumps({**index, "transformer_2": [None, None]}))
    with pytest.raises(CheckpointError, match="transformer_2 is None, expected WanTransformer3DModel"):
        Checkpoint.open(configs).check()
    (configs / "model_index.json").write_text(json.dumps({**index, "boundary_ratio": None}))
    with pytest.raises(CheckpointError, match="has no boundary_ratio"):
        Checkpoint.open(configs).check()


@pytest.mark.parametrize(("content", "message"), [(None, "is missing. CHECKPOINT must be"), ("{", "is not valid JSON")])
def test_a_broken_config_is_named(configs: Path, content: str | None, message: str) -> None:
    path = configs / "vae/config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(configs)


def test_weights_that_one_onnx_file_cannot_hold_are_refused_before_any_work(configs: Path) -> None:
    with (configs / "transformer/model.safetensors").open("wb") as file:
        file.truncate(28_580_000_000)  # sparse: no disk is used
    with pytest.raises(
        CheckpointError, match=r"transformer holds 28.6 GB of weights; a graph can have at most 0.9 GB inside"
    ):
        Checkpoint.open(configs).check_fits_inside()


def test_every_model_gets_the_files_that_it_reads_under_a_manifest(broken: Path, tmp_path: Path) -> None:
    seal_model_files(broken, {graph: {"checkpoint_sha256": graph} for graph in GRAPHS})
    repository = install_export(broken, tmp_path / "repository")
    for model, names in READ_BY.items():
        manifest = check_installed(repository / model / "1", set(names) - {FILES_MANIFEST})
        assert manifest.graphs["text_encoder"] == {"checkpoint_sha256": "text_encoder"}
        assert names[-1] == FILES_MANIFEST, "the manifest goes last"


def test_installing_leaves_equal_files_alone_and_names_an_unfinished_export(broken: Path, tmp_path: Path) -> None:
    repository = install_export(broken, tmp_path / "repository")
    graph = repository / "low_noise_expert/1/model.onnx"
    before = graph.stat().st_mtime_ns
    install_export(broken, repository)
    assert graph.stat().st_mtime_ns == before
    (broken / "vae_decoder_next/manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="the export did not finish. Run `make export` again."):
        install_export(broken, repository)


def test_the_checkpoints_own_folder_is_no_place_for_its_graphs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graph of the text encoder would replace the text encoder, whose folder has the same name."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "mini"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["onnx", "--checkpoint", str(copy), "--folder", str(copy)]) == 1
    assert f"error: {copy}/text_encoder would be replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
