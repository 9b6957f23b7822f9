"""What all tests share: where things are."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def repository() -> Path:
    """The model repository with wan-mini installed, as `make export` leaves it."""
    path = ROOT / "model_repository"
    if not (path / "prepare/1/model_facts.json").exists():
        pytest.fail("nothing is installed in model_repository; run `make export` (or `make test`, which does)")
    return path


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return ROOT / "checkpoints/wan-mini"
