from dataclasses import replace
from pathlib import Path

import pytest

from export.checkpoint.architecture import A14B
from export.graphs.precision import FOR_LARGE_WEIGHTS
from export.graphs.registry import GRAPHS
from export.placement.gpu_memory import GIB, GpuMemory, ServingProfile
from export.to_plan.estimates import PlanEstimates
from export.to_plan.plan_specs import PlanSet, plans_of
from tests.unit.export.to_plan.plan_builds import Recorded, build, refused
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import PlanManifest, read_manifest
from wan_t2v.shapes import VideoShape

pytestmark = pytest.mark.usefixtures("no_gpu")


def test_each_plan_has_a_limit_of_workspace_and_no_tf32(graphs: Path) -> None:
    recorded = Recorded()
    build(graphs, builder=recorded)
    assert {graph: settings.workspace_gib for graph, settings in recorded.settings.items()} == dict.fromkeys(
        GRAPHS, 0.25
    )
    assert not any(settings.tf32 for settings in recorded.settings.values())
    build(graphs, builder=recorded, workspace_gib=3.0, vae_tf32=True)
    assert {settings.workspace_gib for settings in recorded.settings.values()} == {3.0}
    assert [graph for graph, settings in recorded.settings.items() if settings.tf32] == [
        "vae_decoder_first",
        "vae_decoder_next",
    ]
    manifest = read_manifest(PlanManifest, graphs / "plans/vae_decoder_next/1/plan.json")
    assert (manifest.workspace_gib, manifest.tf32) == (3.0, True)


def test_the_limits_of_a14b_are_placements_estimates_and_a_quarter(exported: Path) -> None:
    facts = replace(ModelFacts.read(exported), text_dim=4096)
    small, large = VideoShape(81, 480, 832), VideoShape(81, 720, 1280)
    precisions = {graph: FOR_LARGE_WEIGHTS.of(graph) for graph in GRAPHS}
    for sizes, rows in (((small,), 1), ((small, large), 1), ((small,), 2)):
        plan_set = PlanSet(sizes, rows)
        estimates = PlanEstimates(A14B, precisions, plan_set)
        expert = next(s for s in plans_of(plan_set, facts) if s.graph == "high_noise_expert")
        context = GpuMemory(A14B, ServingProfile(sizes[-1:]), {}).plans["high_noise_expert"].context
        assert 0 <= estimates.workspace_gib(expert) - 1.25 * rows * context / GIB < 0.25
    vae = [s for s in plans_of(PlanSet((small, large)), facts) if s.graph == "vae_decoder_next"]
    limits = [PlanEstimates(A14B, precisions, PlanSet((small, large))).workspace_gib(spec) for spec in vae]
    assert limits[0] < limits[1], "each of the VAE's plans is for one size"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(graphs: Path, capsys: pytest.CaptureFixture[str], limit: str) -> None:
    assert "accepted: a number above 0" in refused(capsys, graphs, "--workspace-gib", limit)
