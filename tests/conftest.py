"""What all tests share: where things are."""

import gc
import os
from pathlib import Path

import pytest

from tests.stress.signals import end_in_order
from wan_t2v.facts import ServingDefaults
from wan_t2v.operate.run_directory import VARIABLE

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch
ROOT = Path(__file__).parents[1]
pytest_plugins = ["tests.time_limits"]


def pytest_configure() -> None:
    """End in order by Ctrl-C and SIGTERM."""
    end_in_order()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start servers; of these the many short ones come last, so that two processes end together.

    `make test` runs everything else before them.
    """
    for item in items:
        if item.path.is_relative_to(ROOT / "tests/server"):
            item.add_marker(pytest.mark.server)
    items.sort(key=lambda item: item.path.is_relative_to(ROOT / "tests/server/requests"))


def pytest_collection_finish() -> None:
    """Leave what collecting made out of later garbage collections, which are a sixth of an export's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def run_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models that are made in the test's own process share a directory of that test."""
    path = tmp_path_factory.mktemp("run")
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def repository() -> Path:
    """The model repository with wan-mini installed, as `make export` leaves it."""
    path = ROOT / "model_repository"
    if not (path / "prepare/1/manifest.json").exists():
        pytest.fail("nothing is installed in model_repository; run `make export` (or `make test`, which does)")
    return path


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """wan-mini as trained, what `make export` takes by default."""
    return ROOT / "training/wan-mini"


@pytest.fixture(scope="session")
def exported() -> Path:
    """The exported graphs of `checkpoint`, as `make export` leaves them. Not to be written to."""
    return ROOT / "build/training-wan-mini"


@pytest.fixture(scope="session")
def default_clip(repository: Path) -> tuple[int, int, int]:
    """Frames, height and width of the video that is made when nothing is asked for."""
    defaults = ServingDefaults.read(repository / "prepare/1")
    return defaults.num_frames, defaults.height, defaults.width
