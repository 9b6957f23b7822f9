"""What earlier builds left: versions of a larger set in the repository, partial plans of a killed build."""

import json
from pathlib import Path

import pytest

from export import disk_space
from export.atomic import OccupiedFolderError
from export.to_plan.build_plans import install_plans
from tests.unit.export.to_plan.plan_builds import CLIP, WIDE, Recorded, build
from wan_t2v.contract import VAE_DECODERS

pytestmark = pytest.mark.usefixtures("no_gpu")


def install(graphs: Path, repository: Path, *sizes: object) -> None:
    specs = build(graphs, *sizes, builder=Recorded())  # type: ignore[arg-type]
    install_plans(specs, graphs, graphs / "plans", repository)


def versions(repository: Path, model: str) -> set[str]:
    return {path.name for path in (repository / model).iterdir()}


def test_fewer_sizes_leave_no_version_of_the_others(graphs: Path, tmp_path: Path) -> None:
    """Triton would load the newest version alone, which is the plan of another size."""
    repository = tmp_path / "repository"
    install(graphs, repository, CLIP, WIDE)
    assert versions(repository, "vae_decoder_next") == {"1", "2"}
    install(graphs, repository, WIDE)
    for model in VAE_DECODERS:
        assert versions(repository, model) == {"1"}
        assert json.loads((repository / model / "1/plan.json").read_text())["sizes"] == [str(WIDE)]
    assert (graphs / "plans/vae_decoder_next/2/model.plan").exists(), "the folder of builds keeps it"


def test_what_is_no_version_of_a_plan_stays(graphs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = tmp_path / "repository"
    for name in ("configs/mine.pbtxt", "1/model.py", "7/model.py"):
        path = repository / "vae_decoder_next" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    install(graphs, repository, CLIP)
    assert versions(repository, "vae_decoder_next") == {"configs", "1", "7"}
    assert (repository / "vae_decoder_next/1/model.py").exists()
    assert "vae_decoder_next/7 is not of this set of plans, and holds more than a plan: remove it" in caplog.text


def test_partial_plans_of_a_killed_build_are_gone_before_the_disk_is_checked(
    graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [graphs / "plans/high_noise_expert" / name for name in (".1.k3_x9abc.partial", ".2.ab12cd34.old")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "model.plan").touch()
    checked = []
    usage = disk_space.shutil.disk_usage

    def looked_at(folder: Path) -> object:
        checked.append([path for path in left if path.exists()])
        return usage(folder)

    monkeypatch.setattr(disk_space.shutil, "disk_usage", looked_at)
    build(graphs, CLIP, builder=Recorded())
    assert checked == [[]]


def test_a_model_repository_is_no_folder_to_build_in(graphs: Path) -> None:
    """A plan would replace the version folder, with the model's own code in it."""
    code = graphs / "plans/vae_decoder_next/1/model.py"
    code.parent.mkdir(parents=True)
    code.touch()
    with pytest.raises(OccupiedFolderError, match=r"vae_decoder_next/1 would be replaced .*model.py"):
        build(graphs, CLIP, builder=Recorded())
    assert code.exists() and not list(graphs.glob("plans/*/*/model.plan"))
