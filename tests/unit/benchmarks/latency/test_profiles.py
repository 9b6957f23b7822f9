"""The figures of step profiles against diffusers, and what another precision is called beside them."""

from pathlib import Path
from typing import cast

import pytest
from wan_t2v_client import TextToVideo

from benchmarks.harness.installed_copy import Installed
from benchmarks.latency import profiles
from benchmarks.latency.profiles import OtherServer, profile_figures
from wan_t2v.contract import GRAPHS


def test_a_ratio_is_the_median_of_the_rounds_and_not_that_of_the_medians() -> None:
    """A machine that is slower in one round is slower for both."""
    seconds = {"diffusers": [2.0, 8.0, 4.0], "exact": [1.0, 2.0, 2.0], "fast": [0.5, 4.0, 1.0]}
    assert profile_figures(seconds, {"exact": 80, "fast": 34}) == {
        "diffusers_s": 4.0,
        "profiles": {
            "exact": {"seconds": 2.0, "ratio": 0.5, "passes": 80},
            "fast": {"seconds": 1.0, "ratio": 0.25, "passes": 34},
        },
    }


def other_servers(monkeypatch: pytest.MonkeyPatch, exported: Path, folder: Path, *, missing: str) -> list[OtherServer]:
    monkeypatch.setattr(profiles, "bf16_is_missing", lambda: missing)
    monkeypatch.setattr(profiles, "install_export", lambda also, repository: repository)
    repository = folder / "repository"
    for graph in GRAPHS:
        (repository / graph / "configs").mkdir(parents=True)
        (repository / graph / "configs/cpu.pbtxt").touch()
    copy = Installed(folder, exported, repository)
    return list(profiles._other_servers(repository, exported, copy, folder))


def test_another_export_has_the_name_of_its_precision_alone_and_with_a_profile(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = cast(TextToVideo, object())
    (other,) = other_servers(monkeypatch, exported, tmp_path, missing="this CPU has FP32")
    assert {name: dict(way.fields) for name, way in other.ways(client).items()} == {
        "fp32": {},
        "fp32, balanced": {"step_profile": "balanced"},
    }
    assert all(way.client is client for way in other.ways(client).values())


def test_where_the_cpu_has_bf16_openvino_runs_all_graphs_or_the_vaes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = other_servers(monkeypatch, exported, tmp_path, missing="")
    client = cast(TextToVideo, object())
    assert [name for server in servers for name in server.ways(client)] == [
        "fp32", "fp32, balanced", "bf16", "bf16, balanced", "bf16, four steps", "fp32, bf16 VAE, balanced",
        "bf16 VAE, four steps",
    ]  # fmt: skip
    in_openvino = [
        {graph for graph in GRAPHS if "openvino" in (server.repository / graph / "configs/cpu.pbtxt").read_text()}
        for server in servers
    ]
    vae = {"vae_decoder_first", "vae_decoder_next"}
    assert in_openvino == [set(), set(GRAPHS), vae, vae]
