import json
from pathlib import Path

import pytest

from export.to_onnx.a14b_dummy import write_dummy
from tests.fakes.small_configs import small_configs
from tests.unit.export.graphs.tiny_expert import BLOCKS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs of a small Wan; its experts have three blocks here."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    write_dummy(folder, small_configs())
    for path in (folder / "transformer/config.json", folder / "transformer_2/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": BLOCKS}))
    return folder
