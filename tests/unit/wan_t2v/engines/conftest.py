from pathlib import Path

import pytest

from tests.fakes.programs import install_programs


@pytest.fixture(scope="session")
def programs(root: Path, checkpoint: Path) -> Path:
    """The five programs of wan-mini, `<graph>/1/model.pt2`, kept from run to run while they are current."""
    return install_programs(checkpoint, root / "build/test-programs")
