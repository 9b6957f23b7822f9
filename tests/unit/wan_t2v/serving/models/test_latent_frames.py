"""A graph that decodes fewer latent frames per call than a config asks for is refused at the start, in any form."""

import json
import re
from pathlib import Path

import pytest

from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.installed_files import InstalledFileError
from wan_t2v.serving.models import graph
from wan_t2v.serving.models.graph import load_installed_engine
from wan_t2v.serving.models.graph_limits import GraphLimits
from wan_t2v.serving.models.latent_frames import check_latent_frames
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
    told = (
        f"decodes 1 latent frame.* latent_frames_per_call is 5. Set it to 1, .*{re.escape(GRAPH_FILES[engine].command)}"
    )
    with pytest.raises(InstalledFileError, match=told):
        check_latent_frames(asking_for(5), folder, engine)


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


@pytest.mark.parametrize("name", [FIRST, NEXT])
def test_a_direct_call_takes_no_more_than_the_config_says(name: str, repository: Path) -> None:
    values = {"largest_clip": "256x256x81", "latent_frames_per_call": "5"}
    limits = GraphLimits.of_model(ModelParameters(name, repository / name / "1", values))
    assert limits.most["latent_frames"] == 5
