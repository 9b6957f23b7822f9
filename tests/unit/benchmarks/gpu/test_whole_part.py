"""The part with whole videos: what it needs, and the configs that it writes."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from benchmarks.gpu import run, whole_part
from benchmarks.gpu.random_checkpoint import write_random_checkpoint
from benchmarks.gpu.scale import Scale, full_scale
from benchmarks.gpu.timing import Skipped
from wan_t2v.contract import EXPERTS, STREAM

Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_skipped_before_anything_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_part.shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**9))
    folder = tmp_path / "whole"
    rows = list(whole_part.whole(full_scale(), repository=root / "model_repository", folder=folder))
    assert [row["skipped"] for row in rows] == [f"1 GB are free beside {folder}, and 45 are needed"]
    assert run.status_of(rows) == "skipped" and not folder.exists()


def test_what_an_earlier_run_wrote_is_not_needed_again_and_holes_were_not_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_part.shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**6))
    monkeypatch.setattr(whole_part, "NEEDED_BYTES", 3e6)
    monkeypatch.setattr(whole_part, "prepare", lambda *_, **__: None)
    shards = tmp_path / "whole/checkpoint/transformer"
    shards.mkdir(parents=True)
    (tmp_path / "whole/checkpoint/transformer_2").symlink_to(shards)
    with (shards / "shard.safetensors").open("wb") as file:
        file.truncate(10**7)
    with pytest.raises(Skipped, match="0 GB are free beside .*, and 0 are needed"):
        whole_part._prepare(full_scale(), root / "model_repository", tmp_path / "whole")
    (shards / "shard.safetensors").write_bytes(os.urandom(2 * 10**6))
    assert "seconds" in whole_part._prepare(full_scale(), root / "model_repository", tmp_path / "whole")


def test_the_configs_are_those_of_a_deployment_without_plans(scale: Scale, root: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "checkpoint", scale)
    models = shutil.copytree(root / "model_repository", tmp_path / "model_repository")
    pool, loaded = whole_part._write_configs(scale, models, tmp_path / "intervals")
    assert pool > 0 and STREAM in loaded and "denoiser" not in loaded and "vae_decoder_first" not in loaded
    for model in (*EXPERTS, "text_encoder"):
        config = text_format.Parse((models / model / "configs/whole.pbtxt").read_text(), ModelConfig())
        assert (config.backend, config.parameters["engine"].string_value) == ("python", "torch")
        assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_CPU]
        assert DataType.Name(config.output[0].data_type) == "TYPE_BF16"


def test_intervals_of_one_graph_in_one_span_are_read(tmp_path: Path) -> None:
    (tmp_path / "vae_decoder_first-1.txt").write_text("10 20\n30 40\n")
    (tmp_path / "vae_decoder_next-1.txt").write_text("41 50\n")
    (tmp_path / "text_encoder-1.txt").write_text("31 39\n")
    assert sorted(whole_part.read_intervals_of(tmp_path, "vae", (25, 60))) == [(30, 40), (41, 50)]
