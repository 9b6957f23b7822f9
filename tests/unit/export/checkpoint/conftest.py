import shutil
from pathlib import Path

import pytest

from export.to_onnx.a14b_dummy import write_dummy
from tests.fakes.small_configs import small_configs


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of A14B's architecture; every weight is zero but one."""
    return write_dummy(tmp_path_factory.mktemp("intact") / "checkpoint", small_configs())


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "checkpoint"))
