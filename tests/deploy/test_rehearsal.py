"""`make a14b-plans-rehearsal` in small, and its stand-in for Triton's TensorRT backend. The whole run takes minutes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from deploy.rehearsal.__main__ import main
from deploy.rehearsal.server import CONFIG_SET, write_cpu_configs
from deploy.rehearsal.tensorrt_backend import problems_of
from tests.conftest import ROOT
from tests.fakes.manifests import graph_manifest, plan_manifest
from wan_t2v.manifests import to_json

ANY = ("batch", 16, "latent_frames", "latent_height", "latent_width")
EXPERT = graph_manifest(
    inputs={"hidden_states": ANY, "timestep": ("batch", 1), "encoder_hidden_states": ("batch", 512, 4096)},
    outputs={"velocity": ANY},
    dtypes={
        "hidden_states": "BFLOAT16",
        "timestep": "FLOAT",
        "encoder_hidden_states": "BFLOAT16",
        "velocity": "BFLOAT16",
    },
)
PROFILE = {
    name: dict.fromkeys(("min", "opt", "max"), shape)
    for name, shape in (
        ("hidden_states", (1, 16, 21, 60, 104)),
        ("timestep", (1, 1)),
        ("encoder_hidden_states", (1, 512, 4096)),
    )
}


def config() -> dict[str, Any]:
    """The expert's config as Triton hands it to a backend."""
    text = (ROOT / "model_repository/high_noise_expert/config.pbtxt").read_text()
    found = json_format.MessageToDict(text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True)
    return {**found, "max_batch_size": int(found["max_batch_size"])}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    (tmp_path / "model.plan").write_bytes(b"p")
    (tmp_path / "manifest.json").write_text(to_json(EXPERT))
    (tmp_path / "plan.json").write_text(to_json(plan_manifest(profiles=(PROFILE,))))
    return tmp_path


def test_the_config_of_an_expert_fits_its_plan(version: Path) -> None:
    assert problems_of(config(), version) == []


@pytest.mark.parametrize(
    ("graph", "profile", "told"),
    [
        ({"dtypes": {**EXPERT.dtypes, "velocity": "FLOAT"}}, {}, "velocity is TYPE_BF16, the plan has FLOAT"),
        ({"outputs": {"noise": ANY}}, {}, "outputs are ['velocity'], the plan has ['noise']"),
        ({}, {"encoder_hidden_states": dict.fromkeys(("min", "opt", "max"), (1, 512, 64))}, "takes [512, 64]"),
    ],
)
def test_a_config_that_does_not_fit_is_told(
    graph: dict[str, Any], profile: dict[str, Any], told: str, version: Path
) -> None:
    (version / "manifest.json").write_text(to_json(replace(EXPERT, **graph)))
    (version / "plan.json").write_text(to_json(plan_manifest(profiles=({**PROFILE, **profile},))))
    (problem,) = problems_of(config(), version)
    assert told in problem


def test_a_plan_that_is_another_file_or_takes_fewer_rows_is_told(version: Path) -> None:
    (version / "model.plan").write_bytes(b"two")
    problems = problems_of({**config(), "max_batch_size": 2}, version)
    assert "is not the file of its manifest" in problems[0] and "max_batch_size is 2, the plan takes 1" in problems[1]


def test_every_instance_is_put_on_the_cpu_and_nothing_else_changes(tmp_path: Path) -> None:
    for name in ("high_noise_expert", "denoiser"):
        (tmp_path / name).mkdir()
        shutil.copyfile(ROOT / f"model_repository/{name}/config.pbtxt", tmp_path / name / "config.pbtxt")
    placed = (tmp_path / "denoiser/config.pbtxt").read_text() + 'parameters { key: "a", value { string_value: "b" } }'
    (tmp_path / "denoiser/configs").mkdir()
    (tmp_path / "denoiser/configs/placed.pbtxt").write_text(placed)
    write_cpu_configs(tmp_path, "placed")
    for name, original in (("denoiser", "configs/placed.pbtxt"), ("high_noise_expert", "config.pbtxt")):
        before = text_format.Parse((tmp_path / name / original).read_text(), ModelConfig())
        after = text_format.Parse((tmp_path / name / f"configs/{CONFIG_SET}.pbtxt").read_text(), ModelConfig())
        assert json.dumps(json_format.MessageToDict(after)) == json.dumps(json_format.MessageToDict(before)).replace(
            "KIND_GPU", "KIND_CPU"
        )


def test_a_folder_that_no_rehearsal_made_is_neither_filled_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.safetensors").touch()
    assert main(["--out", str(tmp_path)]) == 1
    assert "holds what this command did not write (weights.safetensors)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
