import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.fakes.manifests import H100, graph_manifest, plan_manifest
from wan_t2v.manifests import (
    CheckpointHash,
    GraphManifest,
    GraphOrigin,
    ManifestError,
    MergedLora,
    MergedLoras,
    PlanManifest,
    PlanOrigin,
    RunningGpu,
    has_origin,
    parse,
    read_manifest,
    to_json,
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    for manifest in (
        graph_manifest(),
        graph_manifest(onnx="/a/b.onnx", weights={"files": ["a"]}, checkpoint_sampled=True),
    ):
        assert parse(GraphManifest, to_json(manifest)) == manifest
    for plan in (plan_manifest(), plan_manifest(gpu=None, target="portable", device_memory_bytes=None)):
        assert parse(PlanManifest, to_json(plan)) == plan


def test_loras_are_part_of_a_graphs_origin_and_come_back_as_they_were() -> None:
    lora = MergedLora("a.safetensors", "a" * 64, 0.5)
    manifest = graph_manifest(loras=(lora,))
    assert parse(GraphManifest, to_json(manifest)) == manifest
    origin = GraphOrigin(**{field.name: getattr(manifest, field.name) for field in fields(GraphOrigin)})
    assert has_origin(manifest, origin) and not has_origin(graph_manifest(loras=(replace(lora, scale=1.0),)), origin)
    assert "loras" not in json.loads(to_json(graph_manifest()))
    merged = MergedLoras({"transformer": CheckpointHash("c" * 64, sampled=True)}, {"transformer": (lora,)})
    assert parse(MergedLoras, to_json(merged)) == merged


def test_what_is_not_known_is_left_out() -> None:
    """So that readers that ask whether the key is there are told the truth."""
    raw = json.loads(to_json(plan_manifest(device_memory_bytes=None, gpu=None)))
    assert "device_memory_bytes" not in raw and "gpu" not in raw


def test_the_manifest_of_an_installed_graph_is_read(repository: Path) -> None:
    manifest = read_manifest(GraphManifest, repository / "text_encoder/1/manifest.json")
    assert (manifest.graph, manifest.precision, manifest.checkpoint_sampled) == ("text_encoder", "fp32", False)


@pytest.mark.parametrize(
    "key",
    [
        f.name
        for f in fields(PlanManifest)
        if f.name not in ("checkpoint_sampled", "gpu", "device_memory_bytes", "loras")
    ],
)
def test_a_missing_key_is_named_with_the_remedy(key: str, tmp_path: Path) -> None:
    raw = json.loads(to_json(plan_manifest()))
    del raw[key]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(
        ManifestError, match=rf"plan.json: {key} is missing. Run `python3 -m deploy.image.build_plans` again"
    ):
        read_manifest(PlanManifest, path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "1"}, "version is str, expected int"),
        ({"version": True}, "version is bool, expected int"),
        ({"sizes": "480x832x81"}, "sizes is str, expected list"),
        ({"sizes": [1]}, r"sizes\[0\] is int, expected str"),
        ({"tensorrt": {"module": "tensorrt"}}, "tensorrt.version is missing"),
        ({"gpu": "H100"}, "gpu is str, expected"),
        ({"axes": [{"latent_height": None}]}, r"axes\[0\].latent_height is NoneType, expected int"),
        ({"network": []}, "network is list, expected object"),
    ],
)
def test_a_value_of_another_type_is_named(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        parse(PlanManifest, json.dumps({**json.loads(to_json(plan_manifest())), **changes}))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"a"', b'{"a": "\xff"}', b"[" * 200_000])
def test_a_file_that_is_no_manifest_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"manifest.json: .*Run `make export` again"):
        read_manifest(GraphManifest, tmp_path / "manifest.json")


def test_a_key_of_a_later_version_does_no_harm() -> None:
    text = json.dumps({**json.loads(to_json(plan_manifest())), "of_tomorrow": 1})
    assert parse(PlanManifest, text) == plan_manifest()


def test_another_driver_makes_no_plan_stale_and_another_gpu_does() -> None:
    """Else a Job on another node of the same kind would build every plan of a whole set again."""
    manifest = plan_manifest()
    origin = PlanOrigin(**{field.name: getattr(manifest, field.name) for field in fields(PlanOrigin)})
    updated = RunningGpu(H100.name, H100.compute_capability, "610.43")
    assert has_origin(manifest, replace(origin, gpu=updated))
    assert not has_origin(manifest, replace(origin, gpu=replace(H100, name="NVIDIA H200")))
    read = parse(PlanManifest, to_json(plan_manifest(gpu=updated))).gpu
    assert read is not None and read.driver == "610.43", "it is kept for people"


def test_a_graph_of_sampled_hashes_has_the_same_field() -> None:
    """A large checkpoint's hash is one of samples; readers of plans and of graphs find it where the other is."""
    sampled = graph_manifest(checkpoint_sampled=True)
    origin = GraphOrigin(**{field.name: getattr(sampled, field.name) for field in fields(GraphOrigin)})
    assert has_origin(sampled, origin) and not has_origin(graph_manifest(), origin)
