import shutil
from pathlib import Path

import pytest

from wan_t2v.contract import STREAM


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """The configs of the model repository, nothing else, with the unary endpoint alone."""
    for path in repository.glob("*/config.pbtxt"):
        if path.parent.name == STREAM:
            continue
        target = tmp_path / path.relative_to(repository)
        target.parent.mkdir()
        shutil.copyfile(path, target)
    return tmp_path


@pytest.fixture
def with_stream(copied: Path) -> Path:
    """The repository with a streaming endpoint of the least text, whatever the project's own says besides."""
    (copied / STREAM).mkdir(exist_ok=True)
    (copied / STREAM / "config.pbtxt").write_text(f'name: "{STREAM}"\nbackend: "python"\nmax_batch_size: 0\n')
    return copied
