"""Files that a Python model reads beside the graphs: each model refuses damaged ones, and those of another export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pb_utils import FakePbUtils
from wan_t2v.installed_files import InstalledFileError
from wan_t2v.serving.models.denoiser import Denoiser
from wan_t2v.serving.models.prepare import Prepare
from wan_t2v.serving.models.text_to_video_stream import TextToVideoStream
from wan_t2v.serving.models.vae_decoder import VaeDecoder

READS = [
    ("prepare", Prepare, "model_facts.json"),
    ("prepare", Prepare, "serving_defaults.json"),
    ("prepare", Prepare, "tokenizer.json"),
    ("denoiser", Denoiser, "model_facts.json"),
    ("vae_decoder", VaeDecoder, "model_facts.json"),
    ("text_to_video_stream", TextToVideoStream, "latent_preview.json"),
    ("text_to_video_stream", TextToVideoStream, "model_facts.json"),
]
GRAPHS = [
    ("prepare", Prepare, "text_encoder"),
    ("denoiser", Denoiser, "low_noise_expert"),
    ("vae_decoder", VaeDecoder, "vae_decoder_next"),
]


@pytest.fixture
def installation(repository: Path, tmp_path: Path) -> Path:
    """The installed repository without its graphs, to damage."""
    ignored = shutil.ignore_patterns("model.onnx", "model.plan", "model.pt2")
    return Path(shutil.copytree(repository, tmp_path / "repository", ignore=ignored))


def load(repository: Path, name: str, model: Callable[[Any, Any], Any]) -> None:
    """Make the model as Triton does, with the parameters of its config for the CPU that no test needs otherwise."""
    values = {
        "largest_clip": "256x256x81",
        "served_clips": "",
        "latent_frames_per_call": "1",
        "max_in_flight": "1",
        "max_queued": "1",
    }
    config = {"name": name, "parameters": {key: {"string_value": value} for key, value in values.items()}}
    model(
        FakePbUtils(lambda *_: None),
        {
            "model_config": json.dumps(config),
            "model_repository": str(repository / name),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        },
    )


@pytest.mark.parametrize(("name", "model", "file"), READS)
def test_a_damaged_file_ends_the_load(name: str, model: Any, file: str, installation: Path) -> None:
    path = installation / name / "1" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InstalledFileError, match=rf"{name}/1/{file} is not the file that its manifest describes"):
        load(installation, name, model)


def test_the_stream_checks_the_defaults_that_it_reads_of_prepare(installation: Path) -> None:
    (installation / "prepare/1/serving_defaults.json").write_text("{}")
    with pytest.raises(InstalledFileError, match="prepare/1/serving_defaults.json is not the file"):
        load(installation, "text_to_video_stream", TextToVideoStream)


@pytest.mark.parametrize(("name", "model", "graph"), GRAPHS)
def test_files_and_graphs_of_different_checkpoints_end_the_load(
    name: str, model: Any, graph: str, installation: Path
) -> None:
    path = installation / graph / "1/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint_sha256": "another"}))
    with pytest.raises(InstalledFileError, match=rf"{name}/1 and .*{graph}/1 come from different checkpoints"):
        load(installation, name, model)
