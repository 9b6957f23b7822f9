import shutil
from pathlib import Path

import pytest

from export.to_plan.plan_specs import plans_of


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on machines that have one."""
    monkeypatch.setattr("export.to_plan.build_plans.running_gpu", lambda: None)


@pytest.fixture
def graphs(exported: Path, tmp_path: Path) -> Path:
    """wan-mini's exported graphs, to change."""
    return Path(shutil.copytree(exported, tmp_path / "graphs", ignore=shutil.ignore_patterns("plans")))


@pytest.fixture
def text_encoder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that builds fastest stands for all."""
    monkeypatch.setattr(
        "export.to_plan.build_plans.plans_of", lambda *args: [s for s in plans_of(*args) if s.graph == "text_encoder"]
    )
