import json
from pathlib import Path

import pytest

from wan_t2v.serving.errors import ParameterError
from wan_t2v.serving.python_backend.parameters import ModelParameters, graph_build, graph_identity
from wan_t2v.shapes import VideoShape


def parameters(folder: Path = Path("/nowhere"), **values: str) -> ModelParameters:
    config = {"name": "prepare", "parameters": {name: {"string_value": value} for name, value in values.items()}}
    return ModelParameters.from_args(
        {"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"}
    )


def test_parameters_are_typed() -> None:
    given = parameters(threads="2", clips="720x1280x81, 480x832x81", none="", clip="256x128x17")
    assert given.integer("threads", least=1) == 2
    assert given.video_shapes("clips") == (VideoShape(81, 720, 1280), VideoShape(81, 480, 832))
    assert given.video_shapes("none") == ()
    assert given.video_shape("clip") == VideoShape(frames=17, height=256, width=128)


@pytest.mark.parametrize("value", ["false", "-1", "2.0", ""])
def test_an_integer_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(
        ParameterError, match=f"prepare: parameter threads is '{value}', accepted: an integer from 1 up"
    ):
        parameters(threads=value).integer("threads", least=1)


def test_a_missing_parameter_and_a_malformed_size_are_refused() -> None:
    with pytest.raises(ParameterError, match="parameter threads is missing from config.pbtxt"):
        parameters().integer("threads", least=1)
    with pytest.raises(ParameterError, match="accepted: <height>x<width>x<frames>"):
        parameters(clip="720x1280").video_shape("clip")


def test_a_choice_is_one_of_the_words_or_the_default() -> None:
    assert parameters().choice("engine", ("torch", "tensorrt"), "torch") == "torch"
    assert parameters(engine="tensorrt").choice("engine", ("torch", "tensorrt"), "torch") == "tensorrt"
    with pytest.raises(ParameterError, match="prepare: parameter engine is 'x', accepted: torch, tensorrt"):
        parameters(engine="x").choice("engine", ("torch", "tensorrt"), "torch")


def test_another_models_folder_has_the_same_version() -> None:
    assert parameters(Path("/models/denoiser")).beside("prepare") == Path("/models/prepare/1")


def test_a_graph_is_identified_by_its_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Run `make export`"):
        graph_identity(parameters(tmp_path / "prepare"), "text_encoder")
    manifest = tmp_path / "text_encoder/1/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"onnx_sha256": "0123456789abcdef" * 4}))
    assert graph_identity(parameters(tmp_path / "prepare"), "text_encoder") == "0123456789abcdef"


def test_a_build_is_a_graph_with_what_runs_it(tmp_path: Path) -> None:
    home = tmp_path / "high_noise_expert"
    (home / "1").mkdir(parents=True)
    (home / "configs").mkdir()
    files = (home / "1/manifest.json", home / "1/plan.json", home / "config.pbtxt", home / "configs/cpu.pbtxt")
    seen = [graph_build(parameters(tmp_path / "denoiser"), home.name)]
    for path in files:
        path.write_text("one")
        seen.append(graph_build(parameters(tmp_path / "denoiser"), home.name))
        path.write_text("other")
        seen.append(graph_build(parameters(tmp_path / "denoiser"), home.name))
    assert len(set(seen)) == len(seen)
    assert graph_build(parameters(tmp_path / "denoiser"), home.name) == seen[-1]
