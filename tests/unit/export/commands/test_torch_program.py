"""`python -m export torch-program --exported`: what a server without plans needs besides its programs."""

import json
import shutil
from pathlib import Path

import pytest

from export import to_torch_program
from export.__main__ import main
from export.checkpoint.folder import Checkpoint
from export.graphs.registry import GRAPHS
from export.to_onnx.install import READ_BY
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.installed_files import FILES_MANIFEST, FilesManifest, check_installed
from wan_t2v.manifests import GRAPH_MANIFEST


@pytest.fixture
def exported(checkpoint: Path, repository: Path, tmp_path: Path) -> Path:
    """The folder of an export of wan-mini, without its graphs."""
    folder, opened = tmp_path / "exported", Checkpoint.open(checkpoint)
    for graph in GRAPHS:
        (folder / graph).mkdir(parents=True)
        shutil.copyfile(repository / graph / "1" / GRAPH_MANIFEST, folder / graph / GRAPH_MANIFEST)
    for model, names in READ_BY.items():
        for name in set(names) - {FILES_MANIFEST}:
            shutil.copyfile(repository / model / "1" / name, folder / name)
    files = FilesManifest.read(repository / "prepare/1").files
    hashes = {graph: {"checkpoint_sha256": opened.hash_of(origin.component).sha256} for graph, origin in GRAPHS.items()}
    (folder / FILES_MANIFEST).write_text(FilesManifest(files, hashes).to_json())
    return folder


@pytest.fixture
def arguments(checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command for an empty repository, with programs that are written in no time."""

    def write(graph: str, checkpoint: Checkpoint, folder: Path, *_: object, **__: object) -> None:
        folder.mkdir(parents=True)

    monkeypatch.setattr(to_torch_program, "_write", write)
    places = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path / "models"), "--exported", str(exported)]
    return ["torch-program", *places]


def test_model_files_and_manifests_are_installed_and_the_default_is_a_served_size(
    arguments: list[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--default-size", "64x96x9"]) == 0
    models = tmp_path / "models"
    for model, names in READ_BY.items():
        check_installed(models / model / "1", set(names) - {FILES_MANIFEST})
    defaults = json.loads((models / "prepare/1" / DEFAULTS_FILE).read_text())
    assert [defaults[field]["value"] for field in ("height", "width", "num_frames")] == [64, 96, 9]
    assert all((models / graph / "1" / GRAPH_MANIFEST).exists() for graph in GRAPHS)


def test_an_export_of_another_checkpoint_is_refused_and_nothing_is_installed(
    arguments: list[str], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((exported / FILES_MANIFEST).read_text())
    manifest["graphs"]["vae_decoder_next"]["checkpoint_sha256"] = "0" * 64
    (exported / FILES_MANIFEST).write_text(json.dumps(manifest))
    assert main(arguments) == 1
    assert "was exported from other weights than" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--exported", "/nowhere"], "/nowhere/manifest.json is missing: no export, or one that did not finish"),
        (["--default-size", "65x96"], "not a multiple of 16"),
        (["--default-size", "large"], "large"),
    ],
)
def test_what_cannot_be_installed_is_told_before_any_program_is_written(
    change: list[str], told: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *change]) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "models").exists()


def test_a_default_size_without_what_it_belongs_to_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments[:-2], "--default-size", "64x96x9"]) == 1
    assert "--default-size is installed with the model files: name --exported too" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
