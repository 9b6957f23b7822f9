"""A graph that decodes fewer latent frames per call than a config asks for is refused at the start, in any form."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fakes.pb_utils import FakePbUtils
from tests.unit.wan_t2v.serving.models.decoders import decoder
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.installed_files import InstalledFileError
from wan_t2v.serving.models import graph
from wan_t2v.serving.models.graph import load_installed_engine
from wan_t2v.serving.models.graph_limits import GraphLimits
from wan_t2v.serving.models.latent_frames import check_any_form, check_latent_frames
from wan_t2v.serving.models.vae_decoder import FIRST, NEXT
from wan_t2v.serving.python_backend.parameters import ModelParameters

ONE_FRAME = {"inputs": {"latents": ["batch", 16, 1, "latent_height", "latent_width"]}}
ANY = {"inputs": {"latents": ["batch", 16, "latent_frames", "latent_height", "latent_width"]}}
ANY_PROGRAM = {"dynamic_axes": ["batch", "latent_frames"]}


def installed(folder: Path, name: str, engine: str, manifest: dict[str, object]) -> Path:
    """The version folder of a graph with the manifest of an engine's file."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / GRAPH_FILES[engine].manifest).write_text(json.dumps(manifest))
    return version


def asking_for(frames: int) -> ModelParameters:
    return ModelParameters("vae_decoder", Path("/nowhere"), {"latent_frames_per_call": str(frames)})


@pytest.mark.parametrize(
    ("name", "engine", "manifest"),
    [
        (FIRST, "onnxruntime", ONE_FRAME),  # as exported before it took several
        (FIRST, "openvino", ONE_FRAME),
        (FIRST, "torch", {}),
        (FIRST, "torch", {"dynamic_axes": ["batch", "latent_height"]}),
        (FIRST, "tensorrt", {}),
        (NEXT, "tensorrt", {}),
    ],
)
def test_one_that_decodes_fewer_is_refused_with_the_command(
    name: str, engine: str, manifest: dict[str, object], tmp_path: Path
) -> None:
    folder = installed(tmp_path, name, engine, manifest)
    check_latent_frames(asking_for(1), folder, engine)
    with pytest.raises(InstalledFileError, match="decodes 1 latent frame.* Set it to 1 in the configs of ") as refused:
        check_latent_frames(asking_for(5), folder, engine)
    assert (GRAPH_FILES[engine].command in str(refused.value)) == (engine != "tensorrt"), "plans always take one"


@pytest.mark.parametrize(
    ("name", "engine", "manifest"),
    [
        (FIRST, "onnxruntime", ANY),
        (FIRST, "torch", ANY_PROGRAM),
        (NEXT, "onnxruntime", ANY),
        (NEXT, "torch", {}),
        ("low_noise_expert", "tensorrt", {}),
    ],
)
def test_one_that_decodes_any_number_is_accepted(
    name: str, engine: str, manifest: dict[str, object], tmp_path: Path
) -> None:
    check_latent_frames(asking_for(21), installed(tmp_path, name, engine, manifest), engine)


def test_a_graph_is_checked_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = installed(tmp_path, FIRST, "onnxruntime", ONE_FRAME)
    monkeypatch.setattr(graph, "installed_graph", lambda folder, engine: folder / "model.onnx")
    with pytest.raises(InstalledFileError, match="decodes 1 latent frame"):
        load_installed_engine(asking_for(5), folder, graph.EngineSettings())


def test_of_a_graph_that_runs_as_a_model_one_installed_form_must_do(tmp_path: Path) -> None:
    """Its own config names the engine, which other models cannot read."""
    folder = installed(tmp_path, FIRST, "onnxruntime", ONE_FRAME)
    check_any_form(asking_for(5), folder)  # nothing is installed that could be run
    (folder / "model.onnx").touch()
    with pytest.raises(InstalledFileError, match="decodes 1 latent frame"):
        check_any_form(asking_for(5), folder)
    (folder / "model.pt2").touch()
    (folder / "program.json").write_text(json.dumps(ANY_PROGRAM))
    check_any_form(asking_for(5), folder)


def test_a_decoder_whose_graphs_were_exported_before_they_took_several_frames_is_refused(
    repository: Path, tmp_path: Path
) -> None:
    """Else each clip would fail after all its steps."""
    older = Path(shutil.copytree(repository, tmp_path / "older"))
    file = older / FIRST / "1/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **ONE_FRAME}))
    decoder(older, FakePbUtils(), latent_frames_per_call="1")
    with pytest.raises(InstalledFileError, match="decodes 1 latent frame"):
        decoder(older, FakePbUtils(), latent_frames_per_call="5")


@pytest.mark.parametrize("name", [FIRST, NEXT])
@pytest.mark.parametrize(("largest", "accepted"), [("256x256x81", 5), ("256x256x5", 2)])
def test_a_direct_call_takes_no_more_than_the_config_says(
    name: str, largest: str, accepted: int, repository: Path
) -> None:
    values = {"largest_clip": largest, "latent_frames_per_call": "5"}
    limits = GraphLimits.of_model(ModelParameters(name, repository / name / "1", values))
    assert limits.most["latent_frames"] == accepted
