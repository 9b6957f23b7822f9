"""Exports are stale after a change in a source that determines them."""

from pathlib import Path

import pytest

from export import to_torch_program
from export.checkpoint.folder import Checkpoint
from export.manifest import MODULE_SOURCES
from export.to_onnx import manifest
from wan_t2v.manifests import CheckpointHash


def exporters(checkpoint: Checkpoint) -> tuple[str, str]:
    """The hash of the exporter in an ONNX file's origin, and in a torch program's."""
    program = to_torch_program._origin(checkpoint, "text_encoder", "fp32", external=False)
    return manifest.origin("text_encoder", CheckpointHash("0")).exporter_sha256, program["exporter_sha256"]


@pytest.mark.parametrize("name", [*MODULE_SOURCES, "graphs/text_encoder.py"])
def test_both_exports_depend_on_what_makes_a_module(
    name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Checkpoint.open(checkpoint)
    before = exporters(opened)
    read, source = Path.read_bytes, Path(to_torch_program.__file__).parent / name
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path == source else b""))
    after = exporters(opened)
    assert before[0] != after[0] and before[1] != after[1]


def test_the_sources_of_a_module_are_those_that_load_or_describe_it() -> None:
    assert {"checkpoint/folder.py", "checkpoint/meta_module.py"} <= set(MODULE_SOURCES)
    assert "checkpoint/weights/component_weights.py" in MODULE_SOURCES
