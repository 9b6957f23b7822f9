import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.graphs.registry import GRAPHS
from tests.unit.export.to_plan.plan_builds import Recorded, build, refused
from wan_t2v.manifests import GraphManifest, MergedLora, PlanManifest, read_manifest, to_json

LORA = MergedLora("a.safetensors", "a" * 64, 1.0)
pytestmark = pytest.mark.usefixtures("no_gpu")


def test_a_graph_that_changed_or_is_missing_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = graphs / "model_facts.json"
    content = facts.read_bytes()
    facts.unlink()
    assert "model_facts.json is missing. Run `make export`" in refused(capsys, graphs)
    facts.write_bytes(content)
    path = graphs / "vae_decoder_next/model.onnx"
    with path.open("ab") as file:
        file.write(b"\0")
    assert f"{path} changed since its manifest was written. Run `make export`" in refused(capsys, graphs)
    path.unlink()
    assert f"{path} is missing. Run `make export" in refused(capsys, graphs)


def test_a_manifest_of_before_is_refused_with_the_remedy(graphs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graphs / "text_encoder/manifest.json"
    raw = json.loads(path.read_text())
    raw["checkpoint_sample_sha256"] = raw.pop("checkpoint_sha256")
    path.write_text(json.dumps(raw))
    assert "checkpoint_sha256 is missing. Run `make export` again" in refused(capsys, graphs)


def test_plans_of_a_large_checkpoint_have_its_sampled_hash_and_its_loras(graphs: Path) -> None:
    """What once ended in a KeyError after the whole export of A14B."""
    for graph in GRAPHS:
        path = graphs / graph / "manifest.json"
        path.write_text(to_json(replace(read_manifest(GraphManifest, path), checkpoint_sampled=True, loras=(LORA,))))
    build(graphs, builder=Recorded())
    manifest = read_manifest(PlanManifest, graphs / "plans/low_noise_expert/1/plan.json")
    graph_hash = read_manifest(GraphManifest, graphs / "low_noise_expert/manifest.json").checkpoint_sha256
    assert (manifest.checkpoint_sha256, manifest.checkpoint_sampled) == (graph_hash, True)
    assert manifest.loras == (LORA,)
