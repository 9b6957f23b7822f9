"""Installations that break off between two files, over an export of the same weights in another precision."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.graphs.precision import PART_OF
from export.to_onnx import install
from export.to_onnx.install import READ_BY, VERSION, install_export
from export.to_onnx.model_files import MODEL_FILES, seal_model_files
from wan_t2v.contract import EXPERTS
from wan_t2v.facts import DEFAULTS_FILE
from wan_t2v.installed_files import FILES_MANIFEST, FilesManifest, InstalledFileError, sha256_of_file
from wan_t2v.serving.model_files import check_model_files

MADE_FROM = {"checkpoint_sha256": "the same weights"}


def export(folder: Path, precision: str) -> Path:
    """An export whose experts have this precision."""
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).write_text("{}")
    for graph in PART_OF:
        of_graph = precision if graph in EXPERTS else "fp32"
        (folder / graph).mkdir()
        (folder / graph / "model.onnx").write_text(f"{graph} in {of_graph}")
        (folder / graph / "manifest.json").write_text(json.dumps({**MADE_FROM, "precision": of_graph}))
    seal_model_files(folder, dict.fromkeys(PART_OF, MADE_FROM))
    return folder


def check_models(repository: Path) -> None:
    """Check each model's files as the server does at its load."""
    for model, names in READ_BY.items():
        check_model_files(repository / model / VERSION, names[:-1], graphs=PART_OF)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return install_export(export(tmp_path / "fp32", "fp32"), tmp_path / "repository")


@pytest.mark.parametrize("at", ["high_noise_expert/model.onnx", "low_noise_expert/model.onnx", FILES_MANIFEST])
def test_an_installation_that_broke_off_is_refused_by_every_model(
    at: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = export(tmp_path / "int8", "int8")
    copy = shutil.copyfile

    def copy_until(source: Path, target: Path) -> Any:
        if source == other / at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    check_models(installed)
    with monkeypatch.context() as broken:
        broken.setattr(install.shutil, "copyfile", copy_until)
        with pytest.raises(OSError, match="No space left"):
            install_export(other, installed)
    for model, names in READ_BY.items():
        with pytest.raises(
            InstalledFileError, match="or an installation broke off. Run the command that installed them again"
        ):
            check_model_files(installed / model / VERSION, names[:-1], graphs=PART_OF)
    install_export(other, installed)
    check_models(installed)
    assert (installed / "low_noise_expert/1/model.onnx").read_text() == "low_noise_expert in int8"


def test_an_installation_of_the_same_graphs_takes_no_model_out_of_service(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another default size, which `make plans` sets behind each installation, is no other export."""
    home = installed / "prepare" / VERSION
    (home / DEFAULTS_FILE).write_text('{"height": {"value": 480}}')
    manifest = FilesManifest.read(home)
    files = {**manifest.files, DEFAULTS_FILE: sha256_of_file(home / DEFAULTS_FILE)}
    (home / FILES_MANIFEST).write_text(replace(manifest, files=files).to_json())
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(install.shutil, "copyfile", _stop)
        install_export(tmp_path / "fp32", installed)
    check_models(installed)


def _stop(source: Path, target: Path) -> None:
    raise KeyboardInterrupt


def test_what_is_installed_already_is_not_touched(installed: Path, tmp_path: Path) -> None:
    files = [path for path in installed.rglob("*") if path.is_file()]
    before = {path: path.stat().st_ino for path in files}
    install_export(tmp_path / "fp32", installed)
    assert {path: path.stat().st_ino for path in files} == before


def test_a_file_that_a_running_server_holds_keeps_its_content(installed: Path, tmp_path: Path) -> None:
    with (installed / "low_noise_expert/1/model.onnx").open() as held:
        install_export(export(tmp_path / "int8", "int8"), installed)
        assert held.read() == "low_noise_expert in fp32"


def test_an_unfinished_export_is_named_before_anything_is_copied(installed: Path, tmp_path: Path) -> None:
    other = export(tmp_path / "int8", "int8")
    (other / "vae_decoder_next/manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="the export did not finish. Run `make export` again."):
        install_export(other, installed)
    check_models(installed)
    assert (installed / "high_noise_expert/1/model.onnx").read_text() == "high_noise_expert in fp32"
